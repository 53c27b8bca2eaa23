// The safetensors container (https://github.com/huggingface/safetensors): one file, or the shards
// of a model directory. Files are mapped; every header is checked whole before a tensor is handed
// out.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/view.h"

namespace qat {

/// Element types as stored. f8_e4m3 can be listed but has no arithmetic here.
enum class StoredType : uint8_t { f32, f16, bf16, f8_e4m3, i64, i32, i8, u8 };

size_t size_of(StoredType type);
/// As the header spells it: "F32", "BF16", ...
const char* name_of(StoredType type);

struct SafetensorsTensor {
  std::string name;
  StoredType type = StoredType::f32;
  Shape shape;
  uint64_t offset = 0;  ///< from the start of the file
  uint64_t bytes = 0;
  uint32_t file = 0;  ///< which of files() holds it
};

/// All tensors of one file, or of the shards of a model directory.
class Safetensors {
 public:
  /// One file. Throws Error(refused) with file, tensor or offset, and cause.
  static std::shared_ptr<const Safetensors> open_file(const std::string& path);
  /// directory/model.safetensors, or every shard of directory/model.safetensors.index.json. Shards
  /// must lie in the directory (or be links into the hub cache's blobs beside it).
  static std::shared_ptr<const Safetensors> open_directory(const std::string& directory);
  ~Safetensors();

  /// Sorted by name; names are unique.
  const std::vector<SafetensorsTensor>& tensors() const;
  /// nullptr if there is none.
  const SafetensorsTensor* find(std::string_view name) const;
  const std::vector<std::string>& files() const;
  /// The `__metadata__` of the first file.
  const std::map<std::string, std::string>& metadata() const;

  /// The stored bytes (little endian, not necessarily aligned).
  const std::byte* data(const SafetensorsTensor& tensor) const;
  /// Elements [first, first + count) widened to f32; refuses types that are not F32, F16 or BF16.
  void read_floats(const SafetensorsTensor& tensor, int64_t first, int64_t count, float* out) const;
  /// Lets the pages of a tensor that was read leave memory.
  void release(const SafetensorsTensor& tensor) const;

 private:
  Safetensors();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One tensor to be written.
struct SafetensorsEntry {
  std::string name;
  StoredType type = StoredType::f32;
  Shape shape;
};

/// Takes the next bytes of the tensor being written.
using ByteSink = std::function<void(const void* data, size_t bytes)>;
/// Hands all bytes of one tensor to the sink, in as many pieces as it likes.
using SafetensorsSupply = std::function<void(const SafetensorsEntry& entry, const ByteSink& sink)>;

/// Writes one file: `__metadata__ {"format":"pt"}`, tensors by descending element size, then name,
/// data 8-aligned; atomic and durable. Memory stays constant but for what the supply holds.
void write_safetensors(const std::string& path, std::vector<SafetensorsEntry> entries,
                       const SafetensorsSupply& supply);

/// Writes directory/model.safetensors, or shards of at most max_shard_bytes (a larger tensor has a
/// shard of its own) in the order given, with their index. Returns the names of the files written.
std::vector<std::string> write_safetensors_directory(const std::string& directory,
                                                     const std::vector<SafetensorsEntry>& entries,
                                                     uint64_t max_shard_bytes,
                                                     const SafetensorsSupply& supply);

/// Rounds `count` values to F32, F16 or BF16 (to nearest even) into the sink.
void put_floats(const ByteSink& sink, StoredType type, const float* values, int64_t count);

}  // namespace qat
