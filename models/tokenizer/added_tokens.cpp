// AddedTokenMatcher. What single_word, lstrip and rstrip do to a match is Hugging Face's rule.
#include "models/tokenizer/added_tokens.h"

#include <algorithm>

#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

bool has_class(const char* at, unicode::Class wanted) {
  return (unicode::classes()[unicode::decode(at).code] & wanted) != 0;
}

bool touches_word(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && has_class(unicode::previous(text.data(), text.data() + begin), unicode::kWord))
    return true;
  return end < text.size() && has_class(text.data() + end, unicode::kWord);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<Pattern>& patterns) {
  if (patterns.empty()) return;
  nodes_.emplace_back();
  for (const Pattern& pattern : patterns) {
    uint32_t at = 0;
    for (const char c : pattern.text) {
      const auto byte = static_cast<unsigned char>(c);
      uint32_t next = child(at, byte);
      if (next == 0) {
        next = uint32_t(nodes_.size());
        nodes_.push_back({0, nodes_[at].first_child, byte, nullptr});
        nodes_[at].first_child = next;
        if (at == 0) starts_[byte] = next;
      }
      at = next;
    }
    nodes_[at].token = pattern.token;
  }
}

uint32_t AddedTokenMatcher::child(uint32_t node, unsigned char byte) const {
  for (uint32_t at = nodes_[node].first_child; at != 0; at = nodes_[at].next_sibling)
    if (nodes_[at].byte == byte) return at;
  return 0;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Segment>& segments) const {
  size_t kept = 0;  // text before this is in a segment already
  for (size_t at = 0; at < text.size() && !nodes_.empty();) {
    uint32_t node = starts_[static_cast<unsigned char>(text[at])];
    if (node == 0) {
      ++at;
      continue;
    }
    const AddedToken* token = nullptr;
    size_t end = at;
    for (size_t next = at + 1; node != 0; ++next) {
      if (nodes_[node].token != nullptr) {
        token = nodes_[node].token;
        end = next;
      }
      if (next >= text.size()) break;
      node = child(node, static_cast<unsigned char>(text[next]));
    }
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    at = end;  // a match that is then discarded still hides those inside it
    if (token->single_word && touches_word(text, begin, end)) continue;
    if (token->lstrip) {
      size_t space = begin;
      while (space > kept) {
        const char* before = unicode::previous(text.data(), text.data() + space);
        if (!has_class(before, unicode::kSpace)) break;
        space = size_t(before - text.data());
      }
      begin = std::max(space, kept);
    }
    if (token->rstrip)
      while (end < text.size() && has_class(text.data() + end, unicode::kSpace))
        end += unicode::length_from_first_byte(text[end]);
    if (kept < begin) segments.push_back({text.substr(kept, begin - kept), -1});
    segments.push_back({text.substr(begin, end - begin), token->id});
    kept = end;
  }
  if (kept < text.size()) segments.push_back({text.substr(kept), -1});
}

}  // namespace qat
