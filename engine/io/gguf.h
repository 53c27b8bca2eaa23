// Reading GGUF v2/v3 files: metadata, tensor list, dequantized tensors. Files are mapped, not read.
// A model that was split into several files is opened by its first.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kernels/view.h"

namespace qat {

/// One metadata value; integers of every width widen to int64/uint64, floats to double.
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string,
                               std::vector<std::string>, std::vector<double>, std::vector<int64_t>>;

/// Keys of every part of a split model: which it is, of how many, and how many tensors all have.
inline constexpr const char* kSplitNumber = "split.no";
inline constexpr const char* kSplitCount = "split.count";
inline constexpr const char* kSplitTensors = "split.tensors.count";

struct GgufTensor {
  std::string name;
  Shape shape;      ///< row-major order ([out, in]), the reverse of the file's
  uint32_t type;    ///< ggml type id (0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16, ...)
  uint64_t offset;  ///< from the start of its file
  uint64_t bytes;
  uint32_t file = 0;  ///< which of files() holds it
};

class GgufFile {
 public:
  /// Maps and checks the whole header, and those of the other files of a split model. Throws
  /// Error(refused) naming file, offset and cause.
  static std::shared_ptr<const GgufFile> open(const std::string& path);

  const std::string& path() const;
  /// One, or the parts of a split model in their order.
  const std::vector<std::string>& files() const;
  const std::map<std::string, GgufValue, std::less<>>& metadata() const;
  /// Typed look-ups; nullptr / default when the key is absent, Error(refused) on another type.
  const std::string* string(std::string_view key) const;
  const std::vector<std::string>* strings(std::string_view key) const;
  const std::vector<double>* numbers(std::string_view key) const;    ///< float arrays
  const std::vector<int64_t>* integers(std::string_view key) const;  ///< integer arrays
  int64_t integer(std::string_view key, int64_t otherwise) const;
  double number(std::string_view key, double otherwise) const;
  bool flag(std::string_view key, bool otherwise) const;

  const std::vector<GgufTensor>& tensors() const;
  const GgufTensor* find(std::string_view name) const;
  /// Dequantizes rows [row, row + rows) of a tensor to f32. Refuses types it cannot read by name.
  void read_rows(const GgufTensor& tensor, int64_t row, int64_t rows, float* out) const;
  /// The stored bytes of a tensor.
  const std::byte* data(const GgufTensor& tensor) const;

  ~GgufFile();

 private:
  GgufFile();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qat
