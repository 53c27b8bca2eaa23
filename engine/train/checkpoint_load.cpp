// Finding, verifying and opening checkpoints.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>

#include "engine/core/log.h"
#include "engine/train/checkpoint.h"
#include "engine/train/checkpoint_files.h"
#include "engine/train/checkpoint_format.h"
#include "engine/train/checkpoint_verify.h"

namespace qat {
namespace {

using checkpoint_files::Descriptor;
using checkpoint_format::Damaged;
using checkpoint_format::FileEntry;
using checkpoint_format::Manifest;
using checkpoint_format::Prefix;
using nlohmann::json;

constexpr size_t kReadBytes = size_t(1) << 20;
constexpr uint64_t kLargestManifest = uint64_t(64) << 20;

std::string reason(int error) {
  return std::generic_category().message(error);
}

/// A regular file in a checkpoint's directory, opened without following a link or waiting for a
/// pipe.
class InputFile {
 public:
  InputFile(const Descriptor& directory, const std::string& name, std::string path)
      : path_(std::move(path)),
        descriptor_(openat(directory.number(), name.c_str(),
                           O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)) {
    if (!descriptor_)
      throw Damaged(path_ + ": " + (errno == ELOOP ? "a symbolic link" : reason(errno)));
    struct stat status {};
    if (fstat(descriptor_.number(), &status) != 0) throw Damaged(path_ + ": " + reason(errno));
    if (!S_ISREG(status.st_mode)) throw Damaged(path_ + ": not a regular file");
    bytes_ = uint64_t(status.st_size);
  }

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_.number(); }

  void read(uint64_t offset, void* into, size_t bytes) const {
    char* next = static_cast<char*>(into);
    while (bytes > 0) {
      const ssize_t done = pread(descriptor_.number(), next, bytes, off_t(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0)
        throw Damaged(fmt::format("{}: at byte {}: {}", path_, offset,
                                  done < 0 ? reason(errno) : "the file ends"));
      next += done;
      offset += uint64_t(done);
      bytes -= size_t(done);
    }
  }

 private:
  std::string path_;
  Descriptor descriptor_;
  uint64_t bytes_ = 0;
};

Manifest read_manifest(const Descriptor& directory, const std::string& path) {
  const InputFile file(directory, checkpoint_format::kManifest,
                       path + "/" + checkpoint_format::kManifest);
  if (file.bytes() > kLargestManifest)
    throw Damaged(fmt::format("{}: {} bytes, too long for a manifest", file.path(), file.bytes()));
  std::string text(file.bytes(), '\0');
  file.read(0, text.data(), text.size());
  return checkpoint_format::parse_manifest(text, file.path());
}

struct RankHeader {
  Prefix prefix;
  json text;
};

RankHeader read_header(const InputFile& file) {
  RankHeader header{};
  if (file.bytes() < sizeof(Prefix))
    throw Damaged(fmt::format("{}: {} bytes, too short for a header", file.path(), file.bytes()));
  file.read(0, &header.prefix, sizeof header.prefix);
  const Prefix& prefix = header.prefix;
  const bool sound = std::memcmp(prefix.magic, checkpoint_format::kMagic, 8) == 0 &&
                     prefix.byte_order == checkpoint_format::kByteOrder &&
                     prefix.version == checkpoint_format::kVersion &&
                     prefix.data_offset <= file.bytes() &&
                     prefix.header_bytes <= prefix.data_offset - sizeof prefix &&
                     prefix.data_offset >= sizeof prefix &&
                     prefix.data_offset % checkpoint_format::kAlignment == 0;
  if (!sound) throw Damaged(file.path() + ": its header is damaged");
  std::string text(prefix.header_bytes, '\0');
  file.read(sizeof prefix, text.data(), text.size());
  header.text = json::parse(text, nullptr, false);
  if (!header.text.is_object()) throw Damaged(file.path() + ": its header is damaged");
  return header;
}

/// A whole file of another checkpoint is told by its header, before its checksum is.
void check_identity(const RankHeader& header, const Manifest& manifest, int rank,
                    const std::string& path) {
  const json expected = {{"run_id", manifest.run_id},
                         {"step", manifest.step},
                         {"rank", rank},
                         {"world", manifest.world}};
  for (const auto& [key, value] : expected.items()) {
    const json got = header.text.value(key, json());
    if (got != value)
      throw Damaged(fmt::format("{}: belongs to another checkpoint: {} is {}, the manifest says {}",
                                path, key, got.dump(), value.dump()));
  }
}

void check_contents(const InputFile& file, const FileEntry& entry) {
  checkpoint_format::Checksum checksum;
  std::vector<char> buffer(kReadBytes);
  for (uint64_t offset = 0; offset < file.bytes(); offset += kReadBytes) {
    const size_t bytes = size_t(std::min<uint64_t>(kReadBytes, file.bytes() - offset));
    file.read(offset, buffer.data(), bytes);
    checksum.add(buffer.data(), bytes);
  }
  if (checksum.text() != entry.checksum)
    throw Damaged(fmt::format("{}: its checksum is {}, the manifest says {}", file.path(),
                              checksum.text(), entry.checksum));
}

void check_rank_file(const InputFile& file, const Manifest& manifest, int rank) {
  const FileEntry& entry = manifest.files[size_t(rank)];
  if (file.bytes() != entry.bytes)
    throw Damaged(
        fmt::format("{}: {} bytes, the manifest says {}", file.path(), file.bytes(), entry.bytes));
  check_identity(read_header(file), manifest, rank, file.path());
  check_contents(file, entry);
}

Descriptor open_checkpoint(const std::string& path) {
  Descriptor directory = checkpoint_files::open_directory(path);
  if (directory) return directory;
  if (errno == ENOTDIR || errno == ELOOP)
    throw Damaged(path + ": a link or a file where a checkpoint's directory is expected");
  throw Damaged(path + ": " + reason(errno));
}

Manifest verify(const Descriptor& directory, const std::string& path) {
  const Manifest manifest = read_manifest(directory, path);
  const size_t slash = path.find_last_of('/');
  const int64_t named =
      checkpoint_format::step_of_name(path.substr(slash == std::string::npos ? 0 : slash + 1));
  if (named >= 0 && named != manifest.step)
    throw Damaged(fmt::format("{}: its manifest is of step {}", path, manifest.step));
  std::set<std::string> listed;
  for (const FileEntry& entry : manifest.files) listed.insert(entry.name);
  for (const std::string& name : checkpoint_files::names_in(path))
    if (name.starts_with("rank-") && !listed.contains(name))
      throw Damaged(fmt::format("{}/{}: a file the manifest does not list", path, name));
  for (int rank = 0; rank < manifest.world; ++rank) {
    const std::string& name = manifest.files[size_t(rank)].name;
    check_rank_file(InputFile(directory, name, path + "/" + name), manifest, rank);
  }
  return manifest;
}

Shape shape_of(const json& dims) {
  const auto d = dims.get<std::vector<int64_t>>();
  int64_t count = 1;
  for (int64_t dim : d)
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count)) throw Damaged("an impossible shape");
  switch (d.size()) {
    case 0:
      return {};
    case 1:
      return {d[0]};
    case 2:
      return {d[0], d[1]};
    case 3:
      return {d[0], d[1], d[2]};
    case 4:
      return {d[0], d[1], d[2], d[3]};
    default:
      throw Damaged("a tensor of more than four dimensions");
  }
}

DType dtype_of(const std::string& name) {
  for (DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::i8, DType::u8, DType::i32, DType::i64})
    if (name == name_of(dtype)) return dtype;
  throw Damaged("unknown dtype " + name);
}

std::vector<CheckpointTensor> tensors_of(const RankHeader& header, const std::byte* file,
                                         uint64_t file_bytes) {
  const uint64_t room = file_bytes - header.prefix.data_offset;
  std::vector<CheckpointTensor> tensors;
  std::set<std::string> names;
  for (const json& entry : header.text.at("tensors")) {
    CheckpointTensor tensor;
    tensor.name = entry.at("name").get<std::string>();
    tensor.finite = entry.at("finite").get<bool>() ? Finite::required : Finite::optional;
    const auto offset = entry.at("offset").get<uint64_t>();
    tensor.view = ConstView(nullptr, shape_of(entry.at("shape")),
                            dtype_of(entry.at("dtype").get<std::string>()));
    const uint64_t most = room / size_of(tensor.view.dtype);
    if (uint64_t(tensor.view.count()) > most || offset > room ||
        tensor.view.bytes() > room - offset || offset % checkpoint_format::kAlignment != 0)
      throw Damaged("tensor " + tensor.name + " lies outside the file");
    if (!names.insert(tensor.name).second) throw Damaged("tensor " + tensor.name + " twice");
    tensor.view.data = file + header.prefix.data_offset + offset;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

std::shared_ptr<const void> map(const InputFile& file) {
  void* address = mmap(nullptr, file.bytes(), PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  if (address == MAP_FAILED) throw Damaged(file.path() + ": cannot map it: " + reason(errno));
  return {address,
          [bytes = file.bytes()](const void* mapped) { munmap(const_cast<void*>(mapped), bytes); }};
}

}  // namespace

void verify_checkpoint(const std::string& path) {
  verify(open_checkpoint(path), path);
}

Checkpoint Checkpoint::load(const std::string& path) {
  const Descriptor directory = open_checkpoint(path);
  const Manifest manifest = verify(directory, path);
  const std::string& name = manifest.files[0].name;
  const InputFile file(directory, name, path + "/" + name);
  RankHeader header = read_header(file);
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  checkpoint.step_ = manifest.step;
  checkpoint.run_id_ = manifest.run_id;
  checkpoint.program_ = manifest.program;
  checkpoint.mapping_ = map(file);
  try {
    checkpoint.tensors_ =
        tensors_of(header, static_cast<const std::byte*>(checkpoint.mapping_.get()), file.bytes());
    checkpoint.state_ = std::move(header.text.at("state"));
  } catch (const json::exception& error) {
    throw Damaged(fmt::format("{}: {}", file.path(), error.what()));
  } catch (const Damaged& error) {
    throw Damaged(fmt::format("{}: {}", file.path(), error.what()));
  }
  return checkpoint;
}

ConstView Checkpoint::find(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [&](const CheckpointTensor& t) { return t.name == name; });
  return found == tensors_.end() ? ConstView() : found->view;
}

void Checkpoint::read(std::string_view name, View into) const {
  const ConstView stored = find(name);
  if (!stored) refuse("{}: it holds no tensor {}", path_, name);
  if (stored.dtype != into.dtype || stored.shape != into.shape) {
    const auto text = [](const auto& view) {
      std::string dims;
      for (int i = 0; i < view.shape.rank(); ++i)
        dims += (i > 0 ? ", " : "") + std::to_string(view.shape[i]);
      return fmt::format("{} [{}]", name_of(view.dtype), dims);
    };
    refuse("{}: tensor {}: expected {}, got {}: is the recipe the one of this checkpoint?", path_,
           name, text(into), text(stored));
  }
  if (stored.bytes() > 0) std::memcpy(into.data, stored.data, stored.bytes());
}

FoundCheckpoint find_checkpoint(const std::string& directory) {
  checkpoint_files::require_own_directory(directory);
  FoundCheckpoint found;
  for (int64_t step : checkpoint_files::steps_in(directory)) {
    const std::string path = directory + "/" + checkpoint_format::step_name(step);
    try {
      found.checkpoint = Checkpoint::load(path);
      return found;
    } catch (const Damaged& damaged) {
      log::warn("{}: not whole, skipped: {}", path, damaged.what());
      found.skipped.push_back({path, damaged.what()});
    }
  }
  return found;
}

std::optional<Checkpoint> resume_checkpoint(const std::string& directory, NoneWhole none_whole) {
  FoundCheckpoint found = find_checkpoint(directory);
  if (found.checkpoint) {
    log::info("resuming from {} (step {}, run {})", found.checkpoint->path(),
              found.checkpoint->step(), found.checkpoint->run_id());
    return std::move(found.checkpoint);
  }
  if (found.skipped.empty()) return std::nullopt;
  if (none_whole == NoneWhole::refuse)
    refuse(
        "{}: none of its {} checkpoints is whole (the newest: {}); starting over would lose the "
        "run silently: set `resume: auto-or-scratch` to do so, or give another `out`",
        directory, found.skipped.size(), found.skipped.front().reason);
  log::warn("{}: none of its {} checkpoints is whole; starting over", directory,
            found.skipped.size());
  return std::nullopt;
}

bool has_checkpoints(const std::string& directory) {
  return !checkpoint_files::steps_in(directory).empty();
}

}  // namespace qat
