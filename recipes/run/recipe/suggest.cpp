#include "recipes/run/recipe/suggest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "recipes/run/recipe/field.h"

namespace qat::recipe {
namespace {

/// Edits (insert, delete, replace, swap of neighbours) that turn a into b.
size_t edits(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const size_t replaced = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

/// Lower case, and every separator the same.
std::string folded(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '-' || c == ' ' ? '_' : c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
  return out;
}

std::string last_part(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

std::string joined(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

/// The key another program's name stands for; one in the same section first.
std::string known_elsewhere_as(const std::string& prefix, const std::string& name) {
  std::string found;
  for (const auto& field : recipe_fields()) {
    const auto& names = field.nicknames;
    if (std::find(names.begin(), names.end(), name) == names.end()) continue;
    if (field.key.starts_with(joined(prefix, ""))) return field.key;
    if (found.empty()) found = field.key;
  }
  return found;
}

/// The first key or section anywhere whose last part is `name`.
std::string same_last_part(const std::string& name) {
  for (const auto& section : recipe_sections())
    if (last_part(section.key) == name) return section.key;
  for (const auto& field : recipe_fields())
    if (last_part(field.key) == name) return field.key;
  return "";
}

}  // namespace

std::string nearest_word(const std::string& word, const std::vector<std::string>& candidates) {
  constexpr size_t kLongest = 64;
  if (word.empty() || word.size() > kLongest) return "";
  const std::string wanted = folded(word);
  std::string best;
  size_t fewest = word.size() < 3 ? 1 : std::max<size_t>(1, word.size() / 3) + 1;
  for (const auto& candidate : candidates) {
    const size_t count = edits(wanted, folded(candidate));
    if (count < fewest) {
      fewest = count;
      best = candidate;
    }
  }
  return best;
}

std::vector<std::string> keys_below(const std::string& prefix) {
  std::vector<std::string> out;
  const std::string start = prefix.empty() ? "" : prefix + ".";
  for (const auto& field : recipe_fields()) {
    if (!field.key.starts_with(start)) continue;
    const std::string rest = field.key.substr(start.size());
    const std::string name = rest.substr(0, rest.find('.'));
    if (out.empty() || out.back() != name) out.push_back(name);
  }
  return out;
}

std::string key_advice(const std::string& prefix, const std::string& name) {
  const auto siblings = keys_below(prefix);
  if (find_field(name) || find_section(name))
    return fmt::format("{} belongs at the top, or nested: one key a level", name);
  std::string found = nearest_word(name, siblings);
  if (!found.empty()) return fmt::format("did you mean {}?", joined(prefix, found));
  found = known_elsewhere_as(prefix, folded(name));
  if (found.empty()) found = same_last_part(folded(name));
  if (found.empty()) {
    std::vector<std::string> all;
    for (const auto& field : recipe_fields()) all.push_back(last_part(field.key));
    found = nearest_word(name, all);
    if (!found.empty()) found = same_last_part(found);
  }
  if (!found.empty()) return fmt::format("did you mean {}?", found);
  return fmt::format("{} takes {}", prefix.empty() ? "a recipe" : prefix,
                     fmt::join(siblings, ", "));
}

}  // namespace qat::recipe
