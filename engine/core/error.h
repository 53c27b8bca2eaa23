// How everything above the kernels reports failure: one exception that carries the exit code.
// Only main turns it into a line on stderr and an exit; nothing else ends the process.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace qat {

/// Exit codes of every command; job scripts rest on them.
enum class Exit : int {
  ok = 0,
  internal = 1,       ///< a defect of ours
  refused = 2,        ///< recipe, command line or input file refused, before any training
  cannot_write = 3,   ///< disk full, quota, read-only, I/O error
  diverged = 4,       ///< non-finite training beyond the limit
  locked = 5,         ///< another live run holds the output directory
  rank_failed = 6,    ///< a rank died, hung or disagreed
  not_verified = 7,   ///< the exported file does not verify
  stopped_early = 85  ///< stopped on request, checkpoint committed; run again to continue
};

/// A failure worth one line: what, where, expected, got, and what to do about it.
class Error : public std::runtime_error {
 public:
  Error(Exit code, std::string message) : std::runtime_error(std::move(message)), code_(code) {}
  Exit code() const { return code_; }

 private:
  Exit code_;
};

/// Throws Error(Exit::refused): the input (file, key, argument) is at fault.
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Exit::refused, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error(Exit::internal): we are at fault.
template <class... Args>
[[noreturn]] void internal_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Exit::internal, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace qat
