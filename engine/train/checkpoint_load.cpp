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
#include "engine/io/atomic_file.h"
#include "engine/io/json.h"
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
  try {
    header.text = parse_json_object(text, file.path() + ": its header");
  } catch (const Error& error) {
    throw Damaged(error.what());
  }
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

void check_rank_file(const InputFile& file, const Manifest& manifest, int rank, Contents contents) {
  const FileEntry& entry = manifest.files[size_t(rank)];
  if (file.bytes() != entry.bytes)
    throw Damaged(
        fmt::format("{}: {} bytes, the manifest says {}", file.path(), file.bytes(), entry.bytes));
  check_identity(read_header(file), manifest, rank, file.path());
  if (contents == Contents::read) check_contents(file, entry);
}

Descriptor open_checkpoint(const std::string& path) {
  Descriptor directory = checkpoint_files::open_directory(path);
  if (directory) return directory;
  if (errno == ENOTDIR || errno == ELOOP)
    throw Damaged(path + ": a link or a file where a checkpoint's directory is expected");
  throw Damaged(path + ": " + reason(errno));
}

Manifest verify(const Descriptor& directory, const std::string& path, Contents contents) {
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
    check_rank_file(InputFile(directory, name, path + "/" + name), manifest, rank, contents);
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
    if (entry.contains("all_rows")) {
      tensor.first_row = entry.at("first_row").get<int64_t>();
      tensor.all_rows = entry.at("all_rows").get<int64_t>();
      if (tensor.view.shape.rank() == 0 || tensor.first_row < 0 ||
          tensor.view.shape[0] > tensor.all_rows - tensor.first_row)
        throw Damaged("tensor " + tensor.name + " has rows outside of itself");
    }
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

void verify_checkpoint(const std::string& path, Contents contents) {
  verify(open_checkpoint(path), path, contents);
}

void verify_file(const std::string& path, const FileEntry& entry) {
  const std::string directory = parent_directory(path);
  const InputFile file(open_checkpoint(directory), entry.name, path);
  if (file.bytes() != entry.bytes)
    throw Damaged(fmt::format("{}: {} bytes, {} were written", path, file.bytes(), entry.bytes));
  check_contents(file, entry);
}

Checkpoint Checkpoint::load(const std::string& path) {
  const Descriptor directory = open_checkpoint(path);
  const Manifest manifest = verify(directory, path, Contents::read);
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  checkpoint.step_ = manifest.step;
  checkpoint.run_id_ = manifest.run_id;
  checkpoint.program_ = manifest.program;
  checkpoint.world_ = manifest.world;
  for (int rank = 0; rank < manifest.world; ++rank) {
    const std::string& name = manifest.files[size_t(rank)].name;
    const InputFile file(directory, name, path + "/" + name);
    RankHeader header = read_header(file);
    checkpoint.mappings_.push_back(map(file));
    try {
      checkpoint.add_file(tensors_of(
          header, static_cast<const std::byte*>(checkpoint.mappings_.back().get()), file.bytes()));
      if (rank == 0) checkpoint.state_ = std::move(header.text.at("state"));
    } catch (const json::exception& error) {
      throw Damaged(fmt::format("{}: {}", file.path(), error.what()));
    } catch (const Damaged& error) {
      throw Damaged(fmt::format("{}: {}", file.path(), error.what()));
    }
  }
  checkpoint.join_parts();
  return checkpoint;
}

void Checkpoint::add_file(std::vector<CheckpointTensor> tensors) {
  for (CheckpointTensor& tensor : tensors) {
    const CheckpointTensor* before = this->tensor(tensor.name);
    if (before && (tensor.all_rows < 0 || before->all_rows != tensor.all_rows))
      throw Damaged("tensor " + tensor.name + " twice");
    if (tensor.all_rows >= 0) parts_[tensor.name].push_back({tensor.first_row, tensor.view});
    if (!before) tensors_.push_back(std::move(tensor));
  }
}

// Rows that several ranks wrote have to be all rows, each once.
void Checkpoint::join_parts() {
  for (CheckpointTensor& tensor : tensors_) {
    if (tensor.all_rows < 0) continue;
    std::vector<Part>& parts = parts_.find(tensor.name)->second;
    std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
      return std::pair(a.first_row, a.view.shape[0]) < std::pair(b.first_row, b.view.shape[0]);
    });
    tensor.view =
        ConstView(nullptr, with_rows(tensor.view.shape, tensor.all_rows), tensor.view.dtype);
    int64_t next = 0;
    for (const Part& part : parts) {
      if (part.first_row != next || part.view.dtype != tensor.view.dtype ||
          with_rows(part.view.shape, tensor.all_rows) != tensor.view.shape)
        throw Damaged(
            fmt::format("{}: the parts of tensor {} do not fit together", path_, tensor.name));
      next += part.view.shape[0];
    }
    if (next != tensor.all_rows)
      throw Damaged(fmt::format("{}: of tensor {} {} rows are there, expected {}", path_,
                                tensor.name, next, tensor.all_rows));
    tensor.first_row = 0;
    tensor.all_rows = -1;
  }
}

const CheckpointTensor* Checkpoint::tensor(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [&](const CheckpointTensor& t) { return t.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

ConstView Checkpoint::find(std::string_view name) const {
  const CheckpointTensor* found = tensor(name);
  if (!found) return {};
  if (found->view) return found->view;
  const auto [joined, fresh] = joined_.try_emplace(found->name, found->view.bytes());
  const View whole{joined->second.data(), found->view.shape, found->view.dtype};
  if (fresh) read(name, whole);
  return whole;
}

void Checkpoint::read(std::string_view name, View into) const {
  const CheckpointTensor* stored = tensor(name);
  if (!stored) refuse("{}: it holds no tensor {}", path_, name);
  const ConstView& from = stored->view;
  if (from.dtype != into.dtype || from.shape != into.shape) {
    const auto text = [](const auto& view) {
      std::string dims;
      for (int i = 0; i < view.shape.rank(); ++i)
        dims += (i > 0 ? ", " : "") + std::to_string(view.shape[i]);
      return fmt::format("{} [{}]", name_of(view.dtype), dims);
    };
    refuse("{}: tensor {}: expected {}, got {}: is the recipe the one of this checkpoint?", path_,
           name, text(into), text(from));
  }
  if (from)
    std::memcpy(into.data, from.data, from.bytes());
  else
    read_rows(name, {0, from.shape[0]}, into);
}

void Checkpoint::read_rows(std::string_view name, Rows rows, View into) const {
  const CheckpointTensor* stored = tensor(name);
  if (!stored) refuse("{}: it holds no tensor {}", path_, name);
  const ConstView& whole = stored->view;
  if (whole.dtype != into.dtype || whole.shape.rank() == 0 ||
      with_rows(whole.shape, rows.count()) != into.shape || rows.end > whole.shape[0])
    refuse("{}: tensor {}: another shape or dtype: is the recipe the one of this checkpoint?",
           path_, name);
  if (into.bytes() == 0) return;
  const size_t row = into.bytes() / size_t(rows.count());
  const auto copy = [&](int64_t first, const ConstView& part) {
    const int64_t begin = std::max(rows.begin, first);
    const int64_t end = std::min(rows.end, first + part.shape[0]);
    if (begin < end)
      std::memcpy(into.data + size_t(begin - rows.begin) * row,
                  part.data + size_t(begin - first) * row, size_t(end - begin) * row);
  };
  if (whole) return copy(0, whole);
  for (const Part& part : parts_.find(name)->second) copy(part.first_row, part.view);
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
