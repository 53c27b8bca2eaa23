// What a run says of its data.
#pragma once

#include "engine/data/dataset.h"
#include "models/tokenizer/tokenizer.h"

namespace qat {

/// Logs how much there is, what of it counts for the loss and what had to be left out; with
/// QAT_LOG=debug also the first document with an answer, to see where that begins and ends.
void describe_data(const Dataset& data, const Tokenizer& tokenizer);

}  // namespace qat
