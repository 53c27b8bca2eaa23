// The debug mode of a communicator: collectives that differ between ranks are named instead of
// adding up to something wrong or waiting for ever.
#pragma once

#include <memory>

#include "engine/dist/communicator.h"

namespace qat {

/// A communicator that compares, before every collective, its sequence number, name and size over
/// the ranks. Throws Error(rank_failed) on every rank where they differ, naming the first two ranks
/// that do.
std::unique_ptr<Communicator> checked(std::unique_ptr<Communicator> ranks);

}  // namespace qat
