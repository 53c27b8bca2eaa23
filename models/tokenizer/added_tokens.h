// Added and special tokens: found in the text before anything else is done to it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;
  bool normalized = false;  ///< looked for in the normalized text
  bool special = false;     ///< left out of decoded text on request
};

/// A stretch of text: an added token, or text between them (id -1).
struct Segment {
  std::string_view text;
  int32_t id;
};

/// Finds a set of tokens, leftmost first and the longest of those that begin there.
class AddedTokenMatcher {
 public:
  struct Pattern {
    std::string text;
    const AddedToken* token;  ///< must outlive the matcher
  };
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(const std::vector<Pattern>& patterns);

  bool empty() const { return nodes_.empty(); }
  /// Appends the segments of the text, without empty ones.
  void split(std::string_view text, std::vector<Segment>& segments) const;

 private:
  struct Node {
    uint32_t first_child = 0, next_sibling = 0;
    unsigned char byte = 0;
    const AddedToken* token = nullptr;
  };
  uint32_t child(uint32_t node, unsigned char byte) const;

  std::vector<Node> nodes_;    // a trie; node 0 is the root
  uint32_t starts_[256] = {};  // children of the root by byte
};

}  // namespace qat
