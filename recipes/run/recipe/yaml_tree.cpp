#include "recipes/run/recipe/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <map>
#include <sstream>

#include "engine/core/error.h"

namespace qat::recipe {
namespace {

constexpr size_t kMaxBytes = 256 << 10;  // the parser takes up to 240 bytes of memory for each
constexpr size_t kMaxDepth = 16;

std::string place(const YamlOrigin& origin, int64_t line) {
  return origin.kind == YamlOrigin::Kind::file ? fmt::format("{}:{}", origin.name, line)
                                               : origin.name;
}

/// Bytes of the UTF-8 character at `at`, 0 if it is not one (overlong forms, surrogates and values
/// above U+10FFFF are not).
size_t utf8_length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? uint8_t(text[i]) : uint8_t(0); };
  const uint8_t first = byte(at);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC2 ? 2 : 0;
  if (length == 0 || first > 0xF4) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  const uint8_t second = byte(at + 1);
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F)) return 0;
  if ((first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) return 0;
  return length;
}

/// Refuses bytes before the YAML library sees them.
void check_bytes(const std::string& text, const YamlOrigin& origin) {
  if (text.size() > kMaxBytes)
    refuse("{}: expected a recipe of at most {} KiB, got more; is this the right file?",
           origin.name, kMaxBytes >> 10);
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    refuse("{}: expected UTF-8, got UTF-16; save the file as UTF-8", place(origin, 1));
  int64_t line = 1;
  bool in_indentation = true;
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    const uint8_t byte = uint8_t(text[at]);
    if (length == 0)
      refuse("{}: expected UTF-8, got the byte 0x{:02X}; save the file as UTF-8",
             place(origin, line), byte);
    if (byte == '\t' && in_indentation)
      refuse("{}: expected spaces at the start of the line, got a tab; indent with spaces",
             place(origin, line));
    if ((byte < 0x20 && byte != '\n' && byte != '\r' && byte != '\t') || byte == 0x7F)
      refuse("{}: expected text, got the control character 0x{:02X}; remove it",
             place(origin, line), byte);
    if (byte == '\n') ++line;
    in_indentation = byte == '\n' || (in_indentation && byte == ' ');
    at += length;
  }
}

/// Builds the tree from the parser's events; throwing from one also stops the parser's recursion.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const YamlOrigin& origin, YamlNode& root) : origin_(origin), root_(root) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1)
      refuse("{}: expected one document, got a second one after ---; use one file a recipe",
             at(mark));
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_anchor(mark, anchor);
    add(mark, YamlNode::Kind::empty, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse("{}: expected a value, got an alias (*name); a recipe has none, write the value out",
           at(mark));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_anchor(mark, anchor);
    check_tag(mark, tag);
    add(mark, tag == "!" ? YamlNode::Kind::quoted : YamlNode::Kind::plain, value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::list);
  }
  void OnSequenceEnd() override { stack_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::map);
  }
  void OnMapEnd() override { stack_.pop_back(); }

 private:
  struct Level {
    YamlNode* node;
    bool has_key = false;
    std::string key, key_where;
    std::map<std::string, std::string> places;  // of every key so far
  };

  std::string at(const YAML::Mark& mark) const { return place(origin_, mark.line + 1); }

  void check_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0)
      refuse("{}: expected a value, got an anchor (&name); a recipe has none, remove it", at(mark));
  }
  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!")
      refuse("{}: expected a value, got the tag {}; a recipe has none, remove it", at(mark),
             shown(tag));
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            YamlNode::Kind kind) {
    check_anchor(mark, anchor);
    check_tag(mark, tag);
    if (stack_.size() >= kMaxDepth)
      refuse("{}: expected at most {} levels of nesting, got more; a recipe needs four", at(mark),
             kMaxDepth);
    stack_.push_back({add(mark, kind, ""), false, "", "", {}});
  }

  /// Places a node: as the root, a list's item, a map's key or the value of the key before it.
  YamlNode* add(const YAML::Mark& mark, YamlNode::Kind kind, const std::string& text) {
    if (stack_.empty()) return fill(root_, mark, kind, text);
    Level& level = stack_.back();
    if (level.node->kind == YamlNode::Kind::list)
      return fill(level.node->items.emplace_back(), mark, kind, text);
    if (!level.has_key) {
      take_key(level, mark, kind, text);
      return nullptr;
    }
    level.has_key = false;
    YamlNode& value =
        level.node->entries.emplace_back(YamlEntry{level.key, level.key_where, {}}).value;
    fill(value, mark, kind, text);
    // An absent value has no place of its own worth showing: the parser is already past it.
    if (kind == YamlNode::Kind::empty) value.where = level.key_where;
    return &value;
  }

  YamlNode* fill(YamlNode& node, const YAML::Mark& mark, YamlNode::Kind kind,
                 const std::string& text) const {
    node.kind = kind;
    node.text = text;
    node.where = at(mark);
    return &node;
  }

  void take_key(Level& level, const YAML::Mark& mark, YamlNode::Kind kind,
                const std::string& text) const {
    if (kind != YamlNode::Kind::plain && kind != YamlNode::Kind::quoted)
      refuse(
          "{}: expected a key before the colon, got {}; write key: value and close every bracket",
          at(mark),
          kind == YamlNode::Kind::empty  ? "nothing"
          : kind == YamlNode::Kind::list ? "a list"
                                         : "a map");
    if (text == "<<")
      refuse("{}: <<: expected a key, got a YAML merge; a recipe has none, write the keys out",
             at(mark));
    const auto [first, is_new] = level.places.emplace(text, at(mark));
    if (!is_new)
      refuse("{}: {}: expected each key once, got it again (first at {}); remove one", at(mark),
             shown_key(text), first->second);
    level.key = text;
    level.key_where = at(mark);
    level.has_key = true;
  }

  const YamlOrigin& origin_;
  YamlNode& root_;
  std::vector<Level> stack_;
  int documents_ = 0;
};

}  // namespace

YamlNode parse_yaml(const std::string& text, const YamlOrigin& origin) {
  const std::string body = text.starts_with("\xEF\xBB\xBF") ? text.substr(3) : text;
  check_bytes(body, origin);
  YamlNode root;
  root.where = place(origin, 1);
  // yaml-cpp 0.7 takes the end of the text for the end of an open quote; an end of the document
  // inside one it refuses.
  std::istringstream stream(body + "\n...\n");
  try {
    YAML::Parser parser(stream);
    TreeBuilder builder(origin, root);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    refuse("{}: expected YAML, got something else: {}",
           error.mark.is_null() ? origin.name : place(origin, error.mark.line + 1), error.msg);
  }
  return root;
}

std::string shown(const std::string& text) {
  constexpr size_t kMaxShown = 60;
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const size_t length = std::max<size_t>(1, utf8_length(text, at));
    if (out.size() + length > kMaxShown) {
      out += "...";
      break;
    }
    const uint8_t byte = uint8_t(text[at]);
    if (length == 1 && (byte < 0x20 || byte >= 0x7F))
      out += fmt::format("\\x{:02X}", byte);
    else
      out.append(text, at, length);
    at += length;
  }
  return out + "\"";
}

std::string shown(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::empty:
      return "nothing";
    case YamlNode::Kind::plain: {
      const std::string quoted = shown(node.text);
      return quoted.substr(1, quoted.size() - 2);
    }
    case YamlNode::Kind::quoted:
      return shown(node.text);
    case YamlNode::Kind::list:
      return "a list";
    case YamlNode::Kind::map:
      return "a map";
  }
  return "?";
}

std::string shown_key(const std::string& key) {
  const bool tame = !key.empty() && key.size() <= 80 &&
                    std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 0x7F; });
  return tame ? key : shown(key);
}

std::string located(const std::string& where, const std::string& key) {
  return where.ends_with(" " + key) ? where : where + ": " + key;
}

std::string yaml_text(const std::string& text) {
  const auto plain_byte = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.' ||
           c == '/' || c == '+' || c == '*' || c == '$';
  };
  const bool starts_plain = !text.empty() && (std::isalnum(static_cast<unsigned char>(text[0])) ||
                                              text[0] == '_' || text[0] == '.' || text[0] == '/');
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  if (starts_plain && std::all_of(text.begin(), text.end(), plain_byte) && lower != "null")
    return text;
  std::string out = "\"";
  for (const char c : text) {
    const uint8_t byte = uint8_t(c);
    if (c == '"' || c == '\\')
      out += std::string("\\") + c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7F)
      out += fmt::format("\\x{:02X}", byte);
    else
      out += c;
  }
  return out + "\"";
}

}  // namespace qat::recipe
