// TensorBoard event files of a run: scalars, text and histograms, in files of one process each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace qat {

/// `events.out.tfevents.<time>.<host>.<pid>`. A run that goes on opens a new one, and what earlier
/// ones hold of its first step and later is forgotten by TensorBoard, so that curves continue.
/// Failures never end a run: they are warned about once.
class EventFile {
 public:
  /// first_step: the first step this process will write. Throws Error(cannot_write) if the file
  /// cannot be made.
  EventFile(const std::string& directory, int64_t first_step);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  using Scalar = std::pair<std::string_view, float>;
  /// One write for all values of a step.
  void scalars(int64_t step, std::span<const Scalar> values);
  void text(int64_t step, std::string_view tag, std::string_view markdown);
  void histogram(int64_t step, std::string_view tag, std::span<const float> values);

  const std::string& path() const { return path_; }

 private:
  void write(const std::string& event);

  std::string path_;
  int descriptor_ = -1;
  int64_t end_ = 0;
  enum class Health { good, failing } health_ = Health::good;
};

}  // namespace qat
