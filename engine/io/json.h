// JSON from files that we do not trust: bounded in size, depth and number of values; duplicate
// keys, NaN, a byte order mark, lone surrogates and trailing text are refused with file and byte
// offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace qat {

using Json = nlohmann::json;

/// What one document may cost. The defaults hold the largest tokenizer.json in use several times.
struct JsonLimits {
  size_t bytes = size_t(128) << 20;
  int depth = 64;             ///< nested arrays and objects
  size_t values = 8'000'000;  ///< values of every kind, keys not counted
};

/// Parses one JSON document (RFC 8259, UTF-8). `name` stands in front of every error.
Json parse_json(std::string_view text, const std::string& name, const JsonLimits& limits = {});

/// As parse_json; the document must be an object (config.json and the like).
Json parse_json_object(std::string_view text, const std::string& name,
                       const JsonLimits& limits = {});

/// Reads and parses a regular file.
Json read_json_file(const std::string& path, const JsonLimits& limits = {});

/// Reads a whole regular file of at most `limit` bytes; refuses devices, FIFOs and directories.
std::string read_text_file(const std::string& path, size_t limit);

/// Receives the values of a document one by one, for documents that must not become a tree.
/// `offset` is the byte after the token. Depth 1 is inside the outermost object.
class JsonVisitor {
 public:
  virtual ~JsonVisitor() = default;
  virtual void begin_object(size_t offset) = 0;
  virtual void end_object(size_t offset) = 0;
  virtual void begin_array(size_t offset) = 0;
  virtual void end_array(size_t offset) = 0;
  virtual void key(std::string& name, size_t offset) = 0;
  virtual void string(std::string& value, size_t offset) = 0;
  virtual void integer(int64_t value, size_t offset) = 0;
  virtual void unsigned_integer(uint64_t value, size_t offset) = 0;
  virtual void real(double value, size_t offset) = 0;
  virtual void boolean(bool value, size_t offset) = 0;
  virtual void null(size_t offset) = 0;
};

/// Walks a document under the same limits as parse_json; duplicate keys are the visitor's to find.
void visit_json(std::string_view text, const std::string& name, JsonVisitor& visitor,
                const JsonLimits& limits = {});

}  // namespace qat
