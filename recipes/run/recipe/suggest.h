// "Did you mean": the nearest of some words, and the nearest key of the recipe.
#pragma once

#include <string>
#include <vector>

namespace qat::recipe {

/// The candidate that `word` is most likely a slip of, "" if none is near.
std::string nearest_word(const std::string& word, const std::vector<std::string>& candidates);

/// What to do about the unknown `name` inside the section `prefix` ("" for the top): "did you mean
/// train.steps?", or the keys there are.
std::string key_advice(const std::string& prefix, const std::string& name);

/// Every key and section below a section ("" for the top), one level deep, without the prefix.
std::vector<std::string> keys_below(const std::string& prefix);

}  // namespace qat::recipe
