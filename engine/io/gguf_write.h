// Writing GGUF v3 files front to back, one tensor in memory at a time; a large model as several
// files, as llama.cpp's gguf-split makes them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "engine/io/gguf_blocks.h"
#include "kernels/view.h"

namespace qat {

/// A metadata value, typed as llama.cpp expects it: counts and ids u32, real numbers f32.
using GgufField = std::variant<uint32_t, float, bool, std::string, std::vector<std::string>,
                               std::vector<float>, std::vector<int32_t>, uint16_t, int32_t>;
struct GgufKey {
  std::string key;
  GgufField value;
};

struct GgufEntry {
  std::string name;
  GgufType type;
  Shape shape;  ///< row-major, [out, in]

  uint64_t bytes() const;
};

using GgufSink = std::function<void(const void* data, size_t bytes)>;

/// "model.gguf", part 0 of 3: "model-00001-of-00003.gguf".
std::string split_name(const std::string& path, int part, int parts);

/// Creates `path`, in the order of the lists, and syncs it. `contents` gives exactly the bytes of
/// an entry to its sink. Throws Error(cannot_write).
void write_gguf(const std::string& path, const std::vector<GgufKey>& keys,
                const std::vector<GgufEntry>& entries,
                const std::function<void(const GgufEntry&, const GgufSink&)>& contents);

/// The same, as split files of at most `most_bytes` of tensors each (a larger tensor has a file of
/// its own) where one would hold more; all keys are in the first. Returns the path of the first.
std::string write_gguf_split(
    const std::string& path, const std::vector<GgufKey>& keys,
    const std::vector<GgufEntry>& entries, uint64_t most_bytes,
    const std::function<void(const GgufEntry&, const GgufSink&)>& contents);

}  // namespace qat
