// The one global: the log. Lines are for people; the same facts go to metrics.jsonl elsewhere.
#pragma once

#include <spdlog/spdlog.h>

namespace qat::log {
using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;
}  // namespace qat::log
