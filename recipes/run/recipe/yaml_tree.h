// YAML as a recipe may use it: scalars, lists and maps without anchors, aliases, merges or tags, so
// that a tree is never larger than its text. Anything else is refused by line.
#pragma once

#include <string>
#include <vector>

namespace qat::recipe {

struct YamlEntry;

/// One value with the place it came from.
struct YamlNode {
  enum class Kind { empty, plain, quoted, list, map };
  Kind kind = Kind::empty;
  std::string text;                ///< plain and quoted scalars
  std::vector<YamlNode> items;     ///< list
  std::vector<YamlEntry> entries;  ///< map, in the file's order
  std::string where;               ///< "file:line" or "--set key"

  bool scalar() const { return kind == Kind::plain || kind == Kind::quoted; }
};
struct YamlEntry {
  std::string key, where;  ///< the key's place; a value may stand lines below
  YamlNode value;
};

/// What messages call the text: a file, where lines are counted, or an option of the command line.
struct YamlOrigin {
  enum class Kind { file, option };
  std::string name;
  Kind kind = Kind::file;
};

/// Parses one document. Refuses what is not UTF-8, tabs in indentation, anchors and aliases,
/// duplicate keys, `<<`, tags, nesting deeper than 16, a second document, more than 256 KiB.
/// An empty document gives Kind::empty.
YamlNode parse_yaml(const std::string& text, const YamlOrigin& origin);

/// Text from the user for a message: quoted, one line, about 60 bytes at most.
std::string shown(const std::string& text);
/// A node for a message: `fast`, `"20"` where it was quoted, `a list`, `a map`, `nothing`.
std::string shown(const YamlNode& node);
/// A key for a message: as it is, unless it holds something that would break the line.
std::string shown_key(const std::string& key);
/// How a message about a key begins: "file:line: key", or "--set key" where the option names it.
std::string located(const std::string& where, const std::string& key);
/// A scalar for a YAML file: plain where it reads back as the same text, else double-quoted.
std::string yaml_text(const std::string& text);

}  // namespace qat::recipe
