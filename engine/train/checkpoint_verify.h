// What saving needs of loading: reading a checkpoint back to see that it is whole.
#pragma once

#include <cstdint>
#include <string>

#include "engine/train/checkpoint_format.h"

namespace qat {

/// Whether every byte of a checkpoint's files is read, or what was read back before is trusted.
enum class Contents : uint8_t { read, known };

/// Looks at a `step-N`: manifest, names, sizes, headers, and the contents. Throws Error(refused)
/// naming the file and what is wrong with it.
void verify_checkpoint(const std::string& path, Contents contents);
/// Reads every byte of one file; likewise.
void verify_file(const std::string& path, const checkpoint_format::FileEntry& entry);

}  // namespace qat
