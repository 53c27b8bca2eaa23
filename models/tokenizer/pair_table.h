// Flat hash from a pair of token ids to the merge that joins them.
#pragma once

#include <cstdint>
#include <vector>

namespace qat {

struct Merge {
  uint32_t rank;
  int32_t id;
};

class PairTable {
 public:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  /// Room for `count` pairs at a load of at most one half.
  explicit PairTable(size_t count) {
    size_t capacity = 16;
    while (capacity < 2 * count) capacity *= 2;
    slots_.assign(capacity, Slot{kEmpty, {kNoRank, -1}});
    mask_ = capacity - 1;
  }

  /// A pair given twice keeps the later merge.
  void set(int32_t left, int32_t right, Merge merge) {
    const uint64_t key = pack(left, right);
    size_t at = hash(key) & mask_;
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & mask_;
    slots_[at] = {key, merge};
  }

  /// rank == kNoRank when the pair does not merge.
  Merge find(int32_t left, int32_t right) const {
    const uint64_t key = pack(left, right);
    for (size_t at = hash(key) & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.key == key) return slot.merge;
      if (slot.key == kEmpty) return {kNoRank, -1};
    }
  }

 private:
  // Ids are never negative, so no pair packs to all ones.
  static constexpr uint64_t kEmpty = UINT64_MAX;
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  static uint64_t pack(int32_t left, int32_t right) {
    return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
  }
  static size_t hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return size_t(key ^ key >> 32);
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

}  // namespace qat
