// The bytes of a checkpoint's files. Both writing and reading go by this page.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"

namespace qat::checkpoint_format {

inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kByteOrder = 0x01020304;
inline constexpr char kMagic[8] = {'Q', 'A', 'T', 'C', 'K', 'P', 'T', '\n'};
inline constexpr uint64_t kAlignment = 64;
inline constexpr const char* kManifest = "manifest.json";

/// The first bytes of a rank file, in this machine's byte order.
struct Prefix {
  char magic[8];
  uint32_t byte_order;
  uint32_t version;
  uint64_t header_bytes;  ///< JSON text that follows
  uint64_t data_offset;   ///< where the tensors begin; their offsets count from here
};
static_assert(sizeof(Prefix) == 32);

constexpr uint64_t aligned(uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// A checkpoint that is not whole: skipped by a search, refused by name otherwise.
class Damaged : public Error {
 public:
  explicit Damaged(std::string message) : Error(Exit::refused, std::move(message)) {}
};

/// XXH3-128 of a stream.
class Checksum {
 public:
  Checksum() : state_(XXH3_createState()) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state_.get());
  }
  void add(const void* data, size_t bytes) { XXH3_128bits_update(state_.get(), data, bytes); }
  /// 32 hexadecimal digits.
  std::string text() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

/// Of bytes that lie together.
inline std::string checksum_of(const void* data, size_t bytes) {
  Checksum checksum;
  checksum.add(data, bytes);
  return checksum.text();
}

struct FileEntry {
  std::string name;
  uint64_t bytes = 0;
  std::string checksum;
};

struct Manifest {
  std::string run_id, program;
  int64_t step = 0;
  int world = 1;
  std::vector<FileEntry> files;
};

/// The text of manifest.json. It is canonical: reading it accepts these very bytes only.
std::string manifest_text(const Manifest& manifest);
/// path names the file in messages. Throws Damaged, or Error(refused) for a newer format or another
/// byte order.
Manifest parse_manifest(const std::string& text, const std::string& path);

/// "step-12"; "rank-0000-of-0001.bin".
std::string step_name(int64_t step);
std::string rank_name(int rank, int world);
/// The step of a directory name; -1 for any other name.
int64_t step_of_name(std::string_view name);

}  // namespace qat::checkpoint_format
