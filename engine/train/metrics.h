// metrics.jsonl: one JSON object a step, each step once, whatever killed the run in between.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace qat {

/// One line. Floats are printed with the fewest digits that read back to the same bits (a float as
/// a float, also by readers that go through double); NaN and infinities become null.
class MetricsRecord {
 public:
  explicit MetricsRecord(int64_t step);

  MetricsRecord& add(std::string_view key, float value);
  MetricsRecord& add(std::string_view key, double value);
  MetricsRecord& add(std::string_view key, std::string_view value);
  MetricsRecord& add(std::string_view key, const char* value) {
    return add(key, std::string_view(value));
  }
  template <std::integral T>
  MetricsRecord& add(std::string_view key, T value) {
    return add_text(key, std::to_string(value));
  }

  int64_t step() const { return step_; }
  /// The line, newline included.
  std::string line() const { return text_ + "}\n"; }

 private:
  MetricsRecord& add_text(std::string_view key, std::string_view json);

  int64_t step_;
  std::string text_;
};

/// The file. Its failures never end a run: they are warned about once, and the lines wait in memory
/// (up to 16 MiB, the newest stay) for a write that succeeds.
class MetricsFile {
 public:
  /// Opens or creates `path`. A torn last line is cut, and so is everything from the first record
  /// above `last_step` on, the step of the checkpoint the run goes on from (-1 keeps nothing).
  /// Throws Error(cannot_write) if the file cannot be opened.
  MetricsFile(std::string path, int64_t last_step);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  void write(const MetricsRecord& record);
  /// Makes what was written durable; called when a checkpoint is committed.
  void sync();

 private:
  void warn_once(int error);

  std::string path_;
  int descriptor_ = -1;
  int64_t end_ = 0;  ///< where the last whole line ends; -1 for a pipe or a device
  std::string waiting_;
  enum class Health { good, failing } health_ = Health::good;
};

/// Shortest text that reads back to the same bits; "null" for NaN and infinities.
std::string float_text(float value);
std::string float_text(double value);

}  // namespace qat
