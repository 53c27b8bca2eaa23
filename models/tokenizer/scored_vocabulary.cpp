// From scored pieces to merges: any two pieces whose joined text is a piece may merge, the one with
// the better score first.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string json_string(std::string_view text) {
  return Json(text).dump();
}

struct ScoredMerge {
  int32_t left, right, whole;
};

std::vector<ScoredMerge> find_merges(const ScoredVocabulary& vocabulary,
                                     const std::unordered_map<std::string_view, int32_t>& ids) {
  std::vector<ScoredMerge> merges;
  for (size_t whole = 0; whole < vocabulary.pieces.size(); ++whole) {
    if (vocabulary.types[whole] != PieceType::normal) continue;
    const std::string_view text = vocabulary.pieces[whole];
    for (size_t cut = 0; cut < text.size();) {
      cut += unicode::length_from_first_byte(text[cut]);
      if (cut >= text.size()) break;
      const auto left = ids.find(text.substr(0, cut)), right = ids.find(text.substr(cut));
      if (left == ids.end() || right == ids.end()) continue;
      // Only normal pieces merge: the others are found whole, or never, in a text.
      if (vocabulary.types[size_t(left->second)] != PieceType::normal ||
          vocabulary.types[size_t(right->second)] != PieceType::normal)
        continue;
      merges.push_back({left->second, right->second, int32_t(whole)});
    }
  }
  std::sort(merges.begin(), merges.end(), [&](const ScoredMerge& a, const ScoredMerge& b) {
    const double score_a = vocabulary.scores[size_t(a.whole)];
    const double score_b = vocabulary.scores[size_t(b.whole)];
    if (score_a != score_b) return score_a > score_b;
    if (a.whole != b.whole) return a.whole < b.whole;
    return std::pair(a.left, a.right) < std::pair(b.left, b.right);
  });
  return merges;
}

OrderedJson added_token(size_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

OrderedJson replace(const char* pattern, const char* content, const char* type) {
  return {{"type", type}, {"pattern", {{"String", pattern}}}, {"content", content}};
}

}  // namespace

std::string scored_vocabulary_json(const ScoredVocabulary& vocabulary, const std::string& name) {
  constexpr const char* kMark = "\xE2\x96\x81";
  std::unordered_map<std::string_view, int32_t> ids;
  // Put together as text: an ordered_json object finds its keys by walking.
  std::string pieces, merges;
  OrderedJson added = OrderedJson::array(), unknown = nullptr;
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const std::string& piece = vocabulary.pieces[id];
    if (unicode::valid_prefix(piece) != piece.size() || piece.empty())
      refuse("{}: the piece with id {} is {}", name, id, piece.empty() ? "empty" : "not UTF-8");
    if (std::isnan(vocabulary.scores[id])) refuse("{}: the score of piece {} is NaN", name, id);
    if (!ids.emplace(piece, int32_t(id)).second)
      refuse("{}: the piece '{}' has two ids, {} and {}", name, piece, ids[piece], id);
    pieces += fmt::format("{}{}:{}", id == 0 ? "" : ",", json_string(piece), id);
    const PieceType type = vocabulary.types[id];
    if (type == PieceType::unknown) unknown = piece;
    if (type == PieceType::control || type == PieceType::unknown)
      added.push_back(added_token(id, piece, true));
    if (type == PieceType::user_defined) added.push_back(added_token(id, piece, false));
  }
  for (const ScoredMerge& merge : find_merges(vocabulary, ids))
    merges += fmt::format("{}[{},{}]", merges.empty() ? "" : ",",
                          json_string(vocabulary.pieces[size_t(merge.left)]),
                          json_string(vocabulary.pieces[size_t(merge.right)]));

  OrderedJson normalizers = OrderedJson::array(), decoders = OrderedJson::array();
  if (vocabulary.adds_space_prefix)
    normalizers.push_back({{"type", "Prepend"}, {"prepend", kMark}});
  normalizers.push_back(replace(" ", kMark, "Replace"));
  decoders.push_back(replace(kMark, " ", "Replace"));
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (vocabulary.adds_space_prefix)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});

  OrderedJson single = OrderedJson::array(), specials = OrderedJson::object();
  const auto special = [&](int32_t id) {
    const std::string& text = vocabulary.pieces[size_t(id)];
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
  };
  for (const int32_t id : vocabulary.before) special(id);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  for (const int32_t id : vocabulary.after) special(id);
  OrderedJson pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});

  OrderedJson document;
  document["version"] = "1.0";
  document["truncation"] = nullptr;
  document["padding"] = nullptr;
  document["added_tokens"] = std::move(added);
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
  document["pre_tokenizer"] = nullptr;
  document["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", std::move(single)},
                                {"pair", std::move(pair)},
                                {"special_tokens", std::move(specials)}};
  document["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
  const OrderedJson options = {{"type", "BPE"},
                               {"dropout", nullptr},
                               {"unk_token", unknown},
                               {"continuing_subword_prefix", nullptr},
                               {"end_of_word_suffix", nullptr},
                               {"fuse_unk", true},
                               {"byte_fallback", true},
                               {"ignore_merges", false}};
  std::string head = document.dump(), model = options.dump();
  head.pop_back();
  model.pop_back();
  return head + ",\"model\":" + model + ",\"vocab\":{" + pieces + "},\"merges\":[" + merges + "]}}";
}

}  // namespace qat
