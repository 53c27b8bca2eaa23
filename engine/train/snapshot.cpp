#include "engine/train/snapshot.h"

#include <cstring>
#include <utility>

#include "engine/core/error.h"
#include "engine/train/checkpoint_format.h"
#include "kernels/backend.h"

namespace qat {

using checkpoint_format::aligned;

size_t snapshot_bytes(std::span<const CheckpointTensor> tensors) {
  size_t bytes = 0;
  for (const CheckpointTensor& tensor : tensors) bytes += aligned(tensor.view.bytes());
  return bytes;
}

Snapshot::~Snapshot() {
  if (memory_) release_host(memory_, bytes_);
}

// A page that is touched for the first time within a step would cost that step.
void Snapshot::reserve(std::span<const CheckpointTensor> tensors) {
  const size_t bytes = snapshot_bytes(tensors);
  if (bytes <= bytes_) return;
  if (memory_) release_host(std::exchange(memory_, nullptr), std::exchange(bytes_, 0));
  memory_ = allocate_host(bytes);
  if (!memory_)
    refuse(
        "out of memory: {} MiB wanted for the snapshot of a checkpoint; set checkpoint.async: "
        "false",
        bytes >> 20);
  bytes_ = bytes;
  std::memset(memory_, 0, bytes_);
}

std::vector<CheckpointTensor> Snapshot::lay_out(std::span<const CheckpointTensor> tensors) {
  reserve(tensors);
  std::vector<CheckpointTensor> copies(tensors.begin(), tensors.end());
  pieces_.clear();
  size_t offset = 0;
  for (CheckpointTensor& copy : copies) {
    const size_t bytes = copy.view.bytes();
    std::byte* to = memory_ + offset;
    pieces_.push_back({copy.view.data, to, bytes});
    copy.view.data = to;
    offset += aligned(bytes);
  }
  std::lock_guard guard(mutex_);
  copying_ = true;
  return copies;
}

void Snapshot::copy() {
  for (const Piece& piece : pieces_)
    if (piece.bytes > 0) std::memcpy(piece.to, piece.from, piece.bytes);
  cancel();
}

void Snapshot::cancel() {
  {
    std::lock_guard guard(mutex_);
    copying_ = false;
  }
  copied_.notify_all();
}

void Snapshot::wait() {
  std::unique_lock lock(mutex_);
  copied_.wait(lock, [this] { return !copying_; });
}

}  // namespace qat
