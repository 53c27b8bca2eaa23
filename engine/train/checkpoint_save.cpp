// Writing, committing and pruning checkpoints.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

#include "engine/core/log.h"
#include "engine/io/atomic_file.h"
#include "engine/train/background_thread.h"
#include "engine/train/checkpoint.h"
#include "engine/train/checkpoint_files.h"
#include "engine/train/checkpoint_format.h"
#include "engine/train/checkpoint_stages.h"
#include "engine/train/checkpoint_verify.h"
#include "engine/train/finite.h"
#include "engine/train/run_lock.h"
#include "engine/train/snapshot.h"

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
  RankFile(const std::string& path, const std::atomic<bool>& give_up)
      : file_(path), give_up_(give_up) {
    gathered_.reserve(kChunkBytes);
  }

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
      if (give_up_) throw Error(Exit::cannot_write, "given up: " + file_.path());
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

  // Read back while the device still writes: what is there to read does not depend on that.
  checkpoint_format::FileEntry finish(const std::string& name) {
    flush();
    file_.start_sync();
    const checkpoint_format::FileEntry entry{name, bytes_, checksum_.text()};
    verify_file(file_.path(), entry);
    file_.sync();
    file_.close();
    return entry;
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
  const std::atomic<bool>& give_up_;
  checkpoint_format::Checksum checksum_;
  std::vector<char> gathered_;
  uint64_t bytes_ = 0, syncing_ = 0;
};

checkpoint_format::FileEntry write_rank_file(const std::string& directory,
                                             const checkpoint_format::Manifest& manifest, int rank,
                                             const json& state,
                                             std::span<const CheckpointTensor> tensors,
                                             const std::atomic<bool>& give_up) {
  const std::string name = checkpoint_format::rank_name(rank, manifest.world);
  const std::string text = header_of(manifest, rank, state, tensors).dump();
  Prefix prefix{};
  std::memcpy(prefix.magic, checkpoint_format::kMagic, sizeof prefix.magic);
  prefix.byte_order = checkpoint_format::kByteOrder;
  prefix.version = checkpoint_format::kVersion;
  prefix.header_bytes = text.size();
  prefix.data_offset = checkpoint_format::aligned(sizeof prefix + text.size());
  RankFile file(directory + "/" + name, give_up);
  file.add(&prefix, sizeof prefix);
  file.add(text.data(), text.size());
  file.pad();
  for (const CheckpointTensor& tensor : tensors) file.add(tensor);
  return file.finish(name);
}

bool is_whole(const std::string& path) {
  try {
    verify_checkpoint(path, Contents::read);
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

CheckpointWriter::~CheckpointWriter() {
  give_up_ = true;
}

CheckpointWriter::Save::Save(const std::string& directory, const std::string& run_id, int64_t step,
                             const json& state, std::vector<CheckpointTensor> tensors)
    : step(step), state(state), tensors(std::move(tensors)) {
  require_finite_numbers(state, "");
  result.step = step;
  result.path = directory + "/" + checkpoint_format::step_name(step);
  aside = result.path + ".tmp-" + run_id;
  failed = aside;
}

std::vector<CheckpointWriter::Part> CheckpointWriter::exchange_parts(const Part& mine) const {
  if (options_.ranks == nullptr) return {mine};
  std::vector<Part> parts;
  for (const std::string& text : options_.ranks->all_gather(mine.text()))
    parts.push_back(Part::from(text));
  return parts;
}

// Between its stages all ranks agree on whether to go on: what one of them cannot do none of them
// commits, and none waits for another that has left.
SaveResult CheckpointWriter::save(int64_t step, const json& state,
                                  std::span<const CheckpointTensor> tensors) {
  if (save_) internal_error("step {} is saved while step {} is on its way", step, save_->step);
  Save save(directory_, options_.run_id, step, state, {tensors.begin(), tensors.end()});
  for (;;) {
    attempt(save);
    if (!agree(save) || save.stage == SaveStage::commit) break;
    save.next_stage();
  }
  return end(save);
}

// What this rank does of a stage, alone.
void CheckpointWriter::attempt(Save& save) {
  try {
    switch (save.stage) {
      case SaveStage::prepare:
        prepare(save);
        break;
      case SaveStage::write:
        write_own(save);
        break;
      case SaveStage::commit:
        commit(save);
        break;
    }
  } catch (const NotFinite& bad) {
    save.mine.not_finite = true;
    save.mine.message = bad.message;
  } catch (const Error& error) {
    save.mine.failed(error);
  } catch (const std::bad_alloc&) {
    save.mine.failed(Error(Exit::cannot_write, "out of memory while saving " + save.result.path));
  }
  save.result.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - save.start).count();
}

bool CheckpointWriter::agree(Save& save) const {
  save.parts = exchange_parts(save.mine);
  return std::all_of(save.parts.begin(), save.parts.end(),
                     [](const Part& part) { return part.sound(); });
}

// After the last agreement.
SaveResult CheckpointWriter::end(Save& save) {
  const auto bad = std::find_if(save.parts.begin(), save.parts.end(),
                                [](const Part& part) { return !part.sound(); });
  if (bad == save.parts.end()) return save.result;
  whole_.erase(save.step);
  if (leads()) remove_if_possible(save.failed);
  const std::string who =
      save.parts.size() > 1 ? fmt::format("rank {}: ", bad - save.parts.begin()) : std::string();
  if (bad->failure == int(Exit::locked)) throw Error(Exit::locked, who + bad->message);
  save.result.status =
      bad->not_finite ? SaveResult::Status::not_finite : SaveResult::Status::cannot_write;
  save.result.message = who + bad->message;
  return save.result;
}

void CheckpointWriter::prepare(Save& save) {
  if (!leads()) return;
  checkpoint_files::make_directory(directory_);
  // Before and not after: what killed saves left must not fill the disk this one needs.
  checkpoint_files::remove_leftovers(directory_);
  checkpoint_files::make_directory(save.aside);
  save.marked = checkpoint_files::open_directory(save.aside);
  checkpoint_files::mark_as_being_written(*save.marked);
}

void CheckpointWriter::write_own(Save& save) {
  checkpoint_format::Manifest manifest;
  manifest.run_id = options_.run_id;
  manifest.step = save.step;
  manifest.world = options_.ranks ? options_.ranks->size() : 1;
  const int rank = options_.ranks ? options_.ranks->rank() : 0;
  save.mine.file = write_rank_file(save.aside, manifest, rank,
                                   rank == 0 ? save.state : json::object(), save.tensors, give_up_);
  sync_directory(save.aside);
}

// Every rank's file is durable.
void CheckpointWriter::commit(Save& save) {
  if (!leads()) return;
  write_manifest(save);
  rename_to_final(save);
  save.failed = save.result.path;
  sync_directory(directory_);
  verify_checkpoint(save.result.path, Contents::known);  // each rank has read its file
  whole_.insert(save.step);
  prune_if_possible(save.step);
}

void CheckpointWriter::prune_if_possible(int64_t newest) {
  try {
    prune(newest);
  } catch (const Error& error) {
    log::warn("old checkpoints stay: {}", error.what());
  }
}

void CheckpointWriter::write_manifest(Save& save) const {
  checkpoint_format::Manifest manifest;
  manifest.run_id = options_.run_id;
  manifest.program = options_.program;
  manifest.step = save.step;
  manifest.world = int(save.parts.size());
  save.result.bytes = 0;
  for (const Part& part : save.parts) {
    manifest.files.push_back(part.file);
    save.result.bytes += part.file.bytes;
  }
  const std::string text = checkpoint_format::manifest_text(manifest);
  OutputFile file(save.aside + "/" + checkpoint_format::kManifest);
  file.write(text);
  file.sync();
  file.close();
  sync_directory(save.aside);
  save.result.bytes += text.size();
}

void CheckpointWriter::rename_to_final(const Save& save) const {
  const std::string &aside = save.aside, &path = save.result.path;
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
