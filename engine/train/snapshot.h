// A copy of the tensors of a save, so that training may change them while they are written.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <vector>

#include "engine/train/checkpoint.h"

namespace qat {

class Snapshot {
 public:
  Snapshot() = default;
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  /// Memory for these tensors, in place of less, with its pages there. Throws Error(refused).
  void reserve(std::span<const CheckpointTensor> tensors);
  size_t bytes() const { return bytes_; }

  /// Where the copies will lie, as tensors to save. Nothing is copied yet.
  std::vector<CheckpointTensor> lay_out(std::span<const CheckpointTensor> tensors);
  /// Copies what was laid out.
  void copy();
  /// Instead of copy().
  void cancel();
  /// Returns once what was laid out is copied or cancelled.
  void wait();

 private:
  struct Piece {
    const std::byte* from;
    std::byte* to;
    size_t bytes;
  };
  std::byte* memory_ = nullptr;
  size_t bytes_ = 0;
  std::vector<Piece> pieces_;
  std::mutex mutex_;
  std::condition_variable copied_;
  bool copying_ = false;  ///< from lay_out() to the end of copy(), or cancel()
};

/// What a Snapshot of these tensors takes.
size_t snapshot_bytes(std::span<const CheckpointTensor> tensors);

}  // namespace qat
