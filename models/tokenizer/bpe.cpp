// BpeModel. Short words are rescanned for the lowest rank, long ones (text without spaces) go
// through a heap; both take the lowest rank first and the leftmost of equals.
#include "models/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

constexpr size_t kFew = 40;  // symbols up to which rescanning beats a heap
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581 stands for a space

}  // namespace

BpeModel::BpeModel(Vocabulary vocabulary, const std::vector<MergeRule>& merges,
                   const BpeOptions& options)
    : vocabulary_(std::move(vocabulary)), pairs_(merges.size()), options_(options) {
  for (size_t rank = 0; rank < merges.size(); ++rank)
    pairs_.set(merges[rank].left, merges[rank].right, {uint32_t(rank), merges[rank].id});
  bool all_bytes = true, all_fallbacks = true;
  for (int byte = 0; byte < 256; ++byte) {
    const char character = char(byte);
    byte_ids_[size_t(byte)] = vocabulary_.find({&character, 1});
    fallback_ids_[size_t(byte)] = vocabulary_.find(fmt::format("<0x{:02X}>", byte));
    all_bytes = all_bytes && byte_ids_[size_t(byte)] >= 0;
    all_fallbacks = all_fallbacks && fallback_ids_[size_t(byte)] >= 0;
  }
  covers_all_bytes_ = options_.symbols == BpeOptions::Symbols::bytes
                          ? all_bytes
                          : options_.byte_fallback && all_fallbacks;
  split_before_space_mark_ = words_are_independent(merges);
}

// A text without pre-tokenizer may be encoded word by word when no merge joins the end of a word to
// the space mark of the next one, and when no pending unknown token can reach over that border.
bool BpeModel::words_are_independent(const std::vector<MergeRule>& merges) const {
  if (options_.symbols != BpeOptions::Symbols::characters || !covers_all_bytes_ ||
      vocabulary_.find(kSpaceMark) < 0)
    return false;
  return std::none_of(merges.begin(), merges.end(), [&](const MergeRule& merge) {
    return vocabulary_.piece(merge.right).starts_with(kSpaceMark) &&
           !vocabulary_.piece(merge.left).ends_with(kSpaceMark);
  });
}

void BpeModel::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (options_.ignore_merges) {
    if (scratch.cache.append(piece, ids)) return;
    const int32_t id = vocabulary_.find(piece);
    if (id >= 0) {
      scratch.cache.remember(piece, &id, 1);
      ids.push_back(id);
      return;
    }
  }
  if (!split_before_space_mark_ || options_.ignore_merges) {
    encode_word(piece, scratch, ids);
    return;
  }
  size_t start = 0;
  for (size_t at = piece.find(kSpaceMark, 0); at != std::string_view::npos;
       at = piece.find(kSpaceMark, at + kSpaceMark.size())) {
    if (at == start || piece.substr(0, at).ends_with(kSpaceMark)) continue;
    encode_word(piece.substr(start, at - start), scratch, ids);
    start = at;
  }
  encode_word(piece.substr(start), scratch, ids);
}

void BpeModel::encode_word(std::string_view word, Scratch& scratch,
                           std::vector<int32_t>& ids) const {
  if (scratch.cache.append(word, ids)) return;
  cut_into_symbols(word, scratch.symbols);
  if (scratch.symbols.size() <= kFew)
    merge_few(scratch.symbols);
  else
    merge_many(scratch);
  scratch.cache.remember(word, scratch.symbols.data(), scratch.symbols.size());
  ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
}

void BpeModel::cut_into_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  symbols.clear();
  bool unknown_pending = false;
  for (size_t at = 0; at < word.size();) {
    const size_t bytes = options_.symbols == BpeOptions::Symbols::bytes
                             ? 1
                             : unicode::length_from_first_byte(word[at]);
    const std::string_view symbol = word.substr(at, bytes);
    at += bytes;
    const int32_t id = bytes == 1 ? byte_ids_[uint8_t(symbol[0])] : vocabulary_.find(symbol);
    if (id >= 0) {
      if (unknown_pending) symbols.push_back(options_.unknown_id);
      unknown_pending = false;
      symbols.push_back(id);
      continue;
    }
    if (options_.byte_fallback && std::all_of(symbol.begin(), symbol.end(), [&](char byte) {
          return fallback_ids_[uint8_t(byte)] >= 0;
        })) {
      // A pending unknown token stays pending and so comes out behind these bytes: Hugging Face's
      // order, reachable only when some byte pieces are missing.
      for (const char byte : symbol) symbols.push_back(fallback_ids_[uint8_t(byte)]);
      continue;
    }
    if (options_.unknown_id < 0) continue;
    if (unknown_pending && !options_.fuse_unknown) symbols.push_back(options_.unknown_id);
    unknown_pending = true;
  }
  if (unknown_pending) symbols.push_back(options_.unknown_id);
}

void BpeModel::merge_few(std::vector<int32_t>& symbols) const {
  size_t count = symbols.size();
  if (count < 2) return;
  int32_t* ids = symbols.data();
  std::array<Merge, kFew> merges;  // merges[i] joins ids[i] and ids[i + 1]
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = pairs_.find(ids[i], ids[i + 1]);
  while (true) {
    size_t best = 0;
    uint32_t rank = PairTable::kNoRank;
    for (size_t i = 0; i + 1 < count; ++i)
      if (merges[i].rank < rank) rank = merges[best = i].rank;
    if (rank == PairTable::kNoRank) break;
    ids[best] = merges[best].id;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      ids[i] = ids[i + 1];
      merges[i] = merges[i + 1];
    }
    if (best + 1 < count) merges[best] = pairs_.find(ids[best], ids[best + 1]);
    if (best > 0) merges[best - 1] = pairs_.find(ids[best - 1], ids[best]);
  }
  symbols.resize(count);
}

void BpeModel::merge_many(Scratch& scratch) const {
  constexpr uint32_t kEnd = UINT32_MAX;
  std::vector<int32_t>& symbols = scratch.symbols;
  std::vector<Scratch::Node>& nodes = scratch.nodes;
  std::vector<uint64_t>& queue = scratch.queue;
  const auto count = uint32_t(symbols.size());
  nodes.resize(count);
  queue.clear();
  for (uint32_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    nodes[i] = {symbols[i], i == 0 ? kEnd : i - 1, last ? kEnd : i + 1,
                last ? Merge{PairTable::kNoRank, -1} : pairs_.find(symbols[i], symbols[i + 1])};
    if (nodes[i].merge.rank != PairTable::kNoRank)
      queue.push_back(uint64_t(nodes[i].merge.rank) << 32 | i);
  }
  const auto lowest_first = std::greater<uint64_t>();
  std::make_heap(queue.begin(), queue.end(), lowest_first);
  const auto refresh = [&](uint32_t at) {
    Scratch::Node& node = nodes[at];
    node.merge = node.next == kEnd ? Merge{PairTable::kNoRank, -1}
                                   : pairs_.find(node.id, nodes[node.next].id);
    if (node.merge.rank == PairTable::kNoRank) return;
    queue.push_back(uint64_t(node.merge.rank) << 32 | at);
    std::push_heap(queue.begin(), queue.end(), lowest_first);
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), lowest_first);
    const auto rank = uint32_t(queue.back() >> 32), at = uint32_t(queue.back());
    queue.pop_back();
    Scratch::Node& node = nodes[at];
    if (node.merge.rank != rank) continue;  // this pair is gone
    Scratch::Node& right = nodes[node.next];
    node.id = node.merge.id;
    node.next = right.next;
    right.merge.rank = PairTable::kNoRank;
    if (node.next != kEnd) nodes[node.next].previous = at;
    refresh(at);
    if (node.previous != kEnd) refresh(node.previous);
  }
  symbols.clear();
  for (uint32_t at = 0; at != kEnd; at = nodes[at].next) symbols.push_back(nodes[at].id);
}

}  // namespace qat
