// A bounded memory of recently encoded words: direct mapped, one cache line an entry, a colliding
// word takes the place of the older one.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace qat {

class WordCache {
 public:
  WordCache() : entries_(kEntries) {}

  /// Appends the ids of a remembered word. False when it is not here.
  bool append(std::string_view word, std::vector<int32_t>& ids) const {
    if (word.size() > kTextBytes) return false;
    const Entry& entry = entries_[slot(word)];
    if (entry.length != word.size() || std::memcmp(entry.text, word.data(), word.size()) != 0)
      return false;
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
    return true;
  }

  void remember(std::string_view word, const int32_t* ids, size_t count) {
    if (word.empty() || word.size() > kTextBytes || count > kIds) return;
    Entry& entry = entries_[slot(word)];
    entry.length = uint8_t(word.size());
    entry.count = uint8_t(count);
    std::memcpy(entry.text, word.data(), word.size());
    std::memcpy(entry.ids, ids, count * sizeof(int32_t));
  }

 private:
  static constexpr size_t kEntries = size_t(1) << 15;
  static constexpr size_t kTextBytes = 38;
  static constexpr size_t kIds = 6;
  struct alignas(64) Entry {
    uint8_t length = 0;  // no word is empty, so 0 means unused
    uint8_t count = 0;
    char text[kTextBytes];
    int32_t ids[kIds];
  };
  static size_t slot(std::string_view word) {
    return XXH3_64bits(word.data(), word.size()) & (kEntries - 1);
  }

  std::vector<Entry> entries_;
};

}  // namespace qat
