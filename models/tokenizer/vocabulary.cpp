// Vocabulary: linear probing over ids, with a part of each hash beside them.
#include "models/tokenizer/vocabulary.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

namespace qat {

Vocabulary::Vocabulary(size_t count) {
  size_t capacity = 64;
  while (capacity < 2 * std::min(count, size_t(kMaxId) + 1)) capacity *= 2;
  slots_.assign(capacity, -1);
  hashes_.assign(capacity, 0);
}

bool Vocabulary::add(std::string_view piece, int64_t id) {
  if (id < 0 || id > kMaxId || contains(id) || find(piece) >= 0) return false;
  if (2 * (count_ + 1) > slots_.size()) grow();
  if (size_t(id) >= spans_.size()) spans_.resize(size_t(id) + 1);
  spans_[size_t(id)] = {arena_.size(), uint32_t(piece.size())};
  arena_.append(piece);
  const uint64_t hash = XXH3_64bits(piece.data(), piece.size());
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at] >= 0) at = (at + 1) & (slots_.size() - 1);
  slots_[at] = int32_t(id);
  hashes_[at] = uint32_t(hash >> 32);
  ++count_;
  return true;
}

int32_t Vocabulary::find(std::string_view text) const {
  const uint64_t hash = XXH3_64bits(text.data(), text.size());
  for (size_t at = hash & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
    const int32_t id = slots_[at];
    if (id < 0) return -1;
    if (hashes_[at] == uint32_t(hash >> 32) && piece(id) == text) return id;
  }
}

void Vocabulary::grow() {
  const std::vector<int32_t> old = std::exchange(slots_, {});
  slots_.assign(2 * old.size(), -1);
  hashes_.assign(slots_.size(), 0);
  for (const int32_t id : old) {
    if (id < 0) continue;
    const uint64_t hash = XXH3_64bits(piece(id).data(), piece(id).size());
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at] >= 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = id;
    hashes_[at] = uint32_t(hash >> 32);
  }
}

}  // namespace qat
