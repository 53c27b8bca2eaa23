// Which grids the formats of a recipe's `export` can hold.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {

/// A key whose value a format cannot hold.
struct Misfit {
  std::string key, expected, got;
};

/// Bits that some matrix has or may get, and the key that says so.
struct PossibleWidth {
  int64_t bits;
  std::string key;
};
std::vector<PossibleWidth> possible_widths(const QuantizeOptions& quantize);

/// The first key in the way of an export; nothing if the format holds the grid.
std::optional<Misfit> misfit(const QuantizeOptions& quantize, ExportFormat format);

/// What a format holds but no known runtime computes with, and what it leaves out; for the log.
std::vector<std::string> target_warnings(const QuantizeOptions& quantize, ExportFormat format);

/// True for activations as llama.cpp quantizes them beside these weights: Q8_0, or Q8_K beside
/// K-types.
bool as_llama_cpp_computes(const QuantizeOptions& quantize);

}  // namespace qat::recipe
