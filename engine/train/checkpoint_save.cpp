// Writing, committing and pruning checkpoints.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "engine/core/log.h"
#include "engine/io/atomic_file.h"
#include "engine/train/checkpoint.h"
#include "engine/train/checkpoint_files.h"
#include "engine/train/checkpoint_format.h"
#include "engine/train/checkpoint_verify.h"
#include "engine/train/finite.h"
#include "engine/train/run_lock.h"

namespace qat {
namespace {

using checkpoint_files::Descriptor;
using checkpoint_format::Prefix;
using nlohmann::json;

constexpr size_t kChunkBytes = size_t(4) << 20;
constexpr uint64_t kSyncBytes = uint64_t(64) << 20;  ///< the device starts before the file ends

/// Ends a save that must not be committed.
struct NotFinite {
  std::string message;
};

/// JSON has no NaN and no infinity: they would read back as null, and the resume would not be
/// exact.
void require_finite_numbers(const json& value, const std::string& path) {
  if (value.is_number_float() && !std::isfinite(value.get<double>()))
    internal_error("the checkpoint's state holds a number that is not finite at {}", path);
  if (!value.is_structured()) return;
  for (const auto& [key, inner] : value.items()) require_finite_numbers(inner, path + "/" + key);
}

json header_of(const checkpoint_format::Manifest& manifest, int rank, const json& state,
               std::span<const CheckpointTensor> tensors) {
  json list = json::array();
  uint64_t offset = 0;
  for (const CheckpointTensor& tensor : tensors) {
    json shape = json::array();
    for (int i = 0; i < tensor.view.shape.rank(); ++i) shape.push_back(tensor.view.shape[i]);
    json entry = {{"name", tensor.name},
                  {"dtype", name_of(tensor.view.dtype)},
                  {"shape", shape},
                  {"offset", offset},
                  {"finite", tensor.finite == Finite::required}};
    if (tensor.all_rows >= 0) {
      entry["first_row"] = tensor.first_row;
      entry["all_rows"] = tensor.all_rows;
    }
    list.push_back(std::move(entry));
    offset = checkpoint_format::aligned(offset + tensor.view.bytes());
  }
  return {{"run_id", manifest.run_id}, {"step", manifest.step}, {"rank", rank},
          {"world", manifest.world},   {"state", state},        {"tensors", list}};
}

/// Bytes on their way to a file, with their checksum taken in the same pass. Small pieces are
/// gathered; large ones go straight from the tensor in chunks that stay in cache between the search
/// for NaN, the checksum and the write.
class RankFile {
 public:
  explicit RankFile(const std::string& path) : file_(path) { gathered_.reserve(kChunkBytes); }

  void add(const void* data, size_t bytes) {
    if (bytes >= kChunkBytes / 4) {
      flush();
      checksum_.add(data, bytes);
      file_.write(data, bytes);
      start_sync();
    } else {
      const char* begin = static_cast<const char*>(data);
      gathered_.insert(gathered_.end(), begin, begin + bytes);
      if (gathered_.size() >= kChunkBytes) flush();
    }
    bytes_ += bytes;
  }

  void pad() {
    static constexpr char kZeros[checkpoint_format::kAlignment] = {};
    add(kZeros, size_t(checkpoint_format::aligned(bytes_) - bytes_));
  }

  void add(const CheckpointTensor& tensor) {
    const size_t item = size_of(tensor.view.dtype);
    const int64_t chunk = int64_t(kChunkBytes / item), count = tensor.view.count();
    for (int64_t at = 0; at < count; at += chunk) {
      const ConstView part(tensor.view.data + size_t(at) * item, Shape{std::min(chunk, count - at)},
                           tensor.view.dtype);
      if (tensor.finite == Finite::required)
        if (const int64_t bad = first_not_finite(part); bad >= 0)
          throw NotFinite{
              fmt::format("tensor {} is not finite at element {}", tensor.name, at + bad)};
      add(part.data, part.bytes());
    }
    pad();
  }

  checkpoint_format::FileEntry finish(const std::string& name) {
    flush();
    file_.sync();
    file_.close();
    return {name, bytes_, checksum_.text()};
  }

 private:
  void start_sync() {
    if (file_.bytes() - syncing_ < kSyncBytes) return;
    syncing_ = file_.bytes();
    file_.start_sync();
  }

  void flush() {
    checksum_.add(gathered_.data(), gathered_.size());
    file_.write(gathered_.data(), gathered_.size());
    gathered_.clear();
  }

  OutputFile file_;
  checkpoint_format::Checksum checksum_;
  std::vector<char> gathered_;
  uint64_t bytes_ = 0, syncing_ = 0;
};

checkpoint_format::FileEntry write_rank_file(const std::string& directory,
                                             const checkpoint_format::Manifest& manifest, int rank,
                                             const json& state,
                                             std::span<const CheckpointTensor> tensors) {
  const std::string name = checkpoint_format::rank_name(rank, manifest.world);
  const std::string text = header_of(manifest, rank, state, tensors).dump();
  Prefix prefix{};
  std::memcpy(prefix.magic, checkpoint_format::kMagic, sizeof prefix.magic);
  prefix.byte_order = checkpoint_format::kByteOrder;
  prefix.version = checkpoint_format::kVersion;
  prefix.header_bytes = text.size();
  prefix.data_offset = checkpoint_format::aligned(sizeof prefix + text.size());
  RankFile file(directory + "/" + name);
  file.add(&prefix, sizeof prefix);
  file.add(text.data(), text.size());
  file.pad();
  for (const CheckpointTensor& tensor : tensors) file.add(tensor);
  return file.finish(name);
}

bool is_whole(const std::string& path) {
  try {
    verify_checkpoint(path);
    return true;
  } catch (const Error&) {
    return false;
  }
}

bool exchange(const std::string& a, const std::string& b) {
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE
  return syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), kExchange) == 0;
}

/// What cannot be removed now is removed by a later save.
void remove_if_possible(const std::string& path) {
  try {
    checkpoint_files::remove_tree(path);
  } catch (const Error& error) {
    log::warn("{}", error.what());
  }
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::string directory, CheckpointOptions options)
    : directory_(std::move(directory)), options_(std::move(options)) {
  if (options_.keep < 2) refuse("checkpoint.keep: expected at least 2, got {}", options_.keep);
  checkpoint_files::require_own_directory(directory_);
}

// What a rank tells the others of its part in a save.
struct CheckpointWriter::Part {
  int failure = 0;  ///< an Exit; 0: none so far
  bool not_finite = false;
  std::string message;
  checkpoint_format::FileEntry file;

  bool sound() const { return failure == 0 && !not_finite; }
  void failed(const Error& error) {
    failure = int(error.code());
    message = error.what();
  }
  std::string text() const {
    return json{{"failure", failure},
                {"not_finite", not_finite},
                {"message", message},
                {"file", {file.name, file.bytes, file.checksum}}}
        .dump(-1, ' ', false, json::error_handler_t::replace);
  }
  static Part from(const std::string& text) {
    const json told = json::parse(text);
    return {told.at("failure"),
            told.at("not_finite"),
            told.at("message"),
            {told.at("file").at(0), told.at("file").at(1), told.at("file").at(2)}};
  }
};

std::vector<CheckpointWriter::Part> CheckpointWriter::exchange_parts(const Part& mine) const {
  if (options_.ranks == nullptr) return {mine};
  std::vector<Part> parts;
  for (const std::string& text : options_.ranks->all_gather(mine.text()))
    parts.push_back(Part::from(text));
  return parts;
}

// Between its steps all ranks agree on whether to go on: what one of them cannot do none of them
// commits, and none waits for another that has left.
SaveResult CheckpointWriter::save(int64_t step, const json& state,
                                  std::span<const CheckpointTensor> tensors) {
  const auto start = std::chrono::steady_clock::now();
  require_finite_numbers(state, "");
  SaveResult result;
  result.path = directory_ + "/" + checkpoint_format::step_name(step);
  const std::string aside = result.path + ".tmp-" + options_.run_id;
  std::string failed = aside;  // what is removed if the save fails
  std::optional<Descriptor> marked;
  std::vector<Part> parts;
  Part mine;
  const auto together = [&](auto&& work) {
    try {
      work();
    } catch (const NotFinite& bad) {
      mine.not_finite = true;
      mine.message = bad.message;
    } catch (const Error& error) {
      mine.failed(error);
    }
    parts = exchange_parts(mine);
    return std::all_of(parts.begin(), parts.end(), [](const Part& part) { return part.sound(); });
  };
  const bool committed = together([&] {
                           if (!leads()) return;
                           checkpoint_files::make_directory(directory_);
                           // Before and not after: what killed saves left must not fill the disk
                           // this one needs.
                           checkpoint_files::remove_leftovers(directory_);
                           checkpoint_files::make_directory(aside);
                           marked = checkpoint_files::open_directory(aside);
                           checkpoint_files::mark_as_being_written(*marked);
                         }) &&
                         together([&] { write_own(aside, step, state, tensors, mine); }) &&
                         together([&] {
                           if (!leads()) return;
                           write_manifest(aside, step, parts, result.bytes);
                           commit(aside, result.path);
                           failed = result.path;
                           sync_directory(directory_);
                           verify_checkpoint(result.path);
                           whole_.insert(step);
                         });
  if (committed) {
    if (leads()) prune_if_possible(step);
  } else {
    whole_.erase(step);
    if (leads()) remove_if_possible(failed);
    const auto bad =
        std::find_if(parts.begin(), parts.end(), [](const Part& p) { return !p.sound(); });
    const std::string who =
        parts.size() > 1 ? fmt::format("rank {}: ", bad - parts.begin()) : std::string();
    if (bad->failure == int(Exit::locked)) throw Error(Exit::locked, who + bad->message);
    result.status =
        bad->not_finite ? SaveResult::Status::not_finite : SaveResult::Status::cannot_write;
    result.message = who + bad->message;
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void CheckpointWriter::prune_if_possible(int64_t newest) {
  try {
    prune(newest);
  } catch (const Error& error) {
    log::warn("old checkpoints stay: {}", error.what());
  }
}

void CheckpointWriter::write_own(const std::string& aside, int64_t step, const json& state,
                                 std::span<const CheckpointTensor> tensors, Part& part) const {
  checkpoint_format::Manifest manifest;
  manifest.run_id = options_.run_id;
  manifest.step = step;
  manifest.world = options_.ranks ? options_.ranks->size() : 1;
  const int rank = options_.ranks ? options_.ranks->rank() : 0;
  part.file = write_rank_file(aside, manifest, rank, rank == 0 ? state : json::object(), tensors);
  sync_directory(aside);
}

void CheckpointWriter::write_manifest(const std::string& aside, int64_t step,
                                      const std::vector<Part>& parts, uint64_t& bytes) const {
  checkpoint_format::Manifest manifest;
  manifest.run_id = options_.run_id;
  manifest.program = options_.program;
  manifest.step = step;
  manifest.world = int(parts.size());
  for (const Part& part : parts) {
    manifest.files.push_back(part.file);
    bytes += part.file.bytes;
  }
  const std::string text = checkpoint_format::manifest_text(manifest);
  OutputFile file(aside + "/" + checkpoint_format::kManifest);
  file.write(text);
  file.sync();
  file.close();
  sync_directory(aside);
  bytes += text.size();
}

void CheckpointWriter::commit(const std::string& aside, const std::string& path) const {
  if (options_.lock != nullptr) options_.lock->require_held();
  if (checkpoint_files::exists(path)) {
    if (is_whole(path)) {
      // At no moment is there no whole checkpoint under this name.
      if (exchange(aside, path)) {
        remove_if_possible(aside);
        return;
      }
      rename_durably(path, aside + "-replaced");
    } else {
      const std::string bad = checkpoint_files::move_to_bad(path, options_.run_id);
      log::warn("{}: was not whole; moved to {}", path, bad);
    }
  }
  if (rename(aside.c_str(), path.c_str()) != 0)
    cannot_write("rename " + aside + " to", path, errno);
}

void CheckpointWriter::prune(int64_t newest) {
  int whole = 0;
  for (int64_t step : checkpoint_files::steps_in(directory_)) {
    const std::string path = directory_ + "/" + checkpoint_format::step_name(step);
    if (step > newest || !checkpoint_files::is_directory(path)) continue;
    if (whole >= options_.keep) {
      whole_.erase(step);
      checkpoint_files::remove_tree(path);
    } else if (whole_.contains(step) || is_whole(path)) {
      whole_.insert(step);
      ++whole;
    } else if (!checkpoint_files::exists(path + "/" + checkpoint_format::kManifest)) {
      log::info("{}: half removed before; removed", path);
      checkpoint_files::remove_tree(path);
    }
  }
}

void set_aside_newer_checkpoints(const std::string& directory, int64_t step,
                                 const std::string& run_id) {
  checkpoint_files::require_own_directory(directory);
  for (int64_t found : checkpoint_files::steps_in(directory)) {
    if (found <= step) break;
    const std::string path = directory + "/" + checkpoint_format::step_name(found);
    const std::string aside = checkpoint_files::move_to_bad(path, run_id);
    log::warn("{}: above the step this run goes on from; moved to {}", path, aside);
  }
}

uint64_t checkpoint_bytes(std::span<const CheckpointTensor> tensors) {
  constexpr uint64_t kPerTensor = 160, kFixed = 4096;  // a header line, prefix and manifest
  uint64_t bytes = kFixed;
  for (const CheckpointTensor& tensor : tensors)
    bytes += checkpoint_format::aligned(tensor.view.bytes()) + kPerTensor + tensor.name.size();
  return bytes;
}

}  // namespace qat
