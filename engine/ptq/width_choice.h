// Which bits each matrix gets where all of them together may take so much.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qat {

/// What a unit takes and what harm it does with one of the widths it may get.
struct WidthOption {
  int64_t size = 0;
  double harm = 0.0;
};

/// The index of one option of each unit: of all choices whose sizes sum to at most `budget` one of
/// least summed harm, of those that are equal one of the smallest. Exact, by dynamic programming
/// over the sizes' common divisor (the multiple-choice knapsack problem); where that leaves more
/// than 2^17 sizes, sizes are rounded up to a coarser one. Units without options, and a budget
/// below the smallest choice, are the caller's mistakes.
std::vector<size_t> least_harm(const std::vector<std::vector<WidthOption>>& units, int64_t budget);

}  // namespace qat
