// How long a piece of work takes.
#pragma once

#include <chrono>

namespace qat {

/// Seconds of wall clock that `work` takes.
template <class Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace qat
