// The strings of a vocabulary: by id, and back by a flat hash.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

class Vocabulary {
 public:
  /// Larger ids are refused: tables are indexed by id.
  static constexpr int64_t kMaxId = (int64_t(1) << 22) - 1;

  /// count: how many pieces will be added (a hint).
  explicit Vocabulary(size_t count);
  /// False when the piece or the id is there already, or the id is out of range.
  bool add(std::string_view piece, int64_t id);

  /// -1 when absent.
  int32_t find(std::string_view piece) const;
  bool contains(int64_t id) const {
    return id >= 0 && size_t(id) < spans_.size() && spans_[size_t(id)].offset != kNone;
  }
  /// The piece of an id that contains() accepts.
  std::string_view piece(int64_t id) const {
    return {arena_.data() + spans_[size_t(id)].offset, spans_[size_t(id)].length};
  }
  int64_t highest_id() const { return int64_t(spans_.size()) - 1; }
  size_t count() const { return count_; }

 private:
  static constexpr uint64_t kNone = UINT64_MAX;
  struct Span {
    uint64_t offset = kNone;
    uint32_t length = 0;
  };
  void grow();

  std::string arena_;
  std::vector<Span> spans_;
  std::vector<int32_t> slots_;
  std::vector<uint32_t> hashes_;
  size_t count_ = 0;
};

}  // namespace qat
