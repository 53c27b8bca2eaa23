// The line a person watches: one that rewrites itself on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

namespace qat {

/// What is known after a step.
struct Progress {
  int64_t step = 0, total = 0;
  double loss = 0;
  std::optional<double> kl;
  double learning_rate = 0;
  int enabled_layers = 0, layers = 0;
  double tokens_per_second = 0;
  std::optional<double> percent_of_peak;  ///< of the measured matmul peak of this machine
  double step_seconds = 0;                ///< of this step, by a clock that cannot jump
};

/// One line of at most `columns` characters. seconds_left below 0 is unknown. What does not fit is
/// left out, the learning rate first.
std::string progress_text(const Progress& progress, double seconds_left, size_t columns);
/// "58s", "12m05s", "3h40m", "2d03h".
std::string duration_text(double seconds);

class ProgressLine {
 public:
  /// every: steps between plain lines where `out` is no terminal. A stream that was closed is no
  /// failure.
  ProgressLine(std::FILE* out, int64_t every);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void update(const Progress& progress);
  /// Clears the line for something else to be printed; the next update draws it again.
  void clear();

 private:
  enum class Kind { terminal, plain };
  void draw(const std::string& text);

  std::FILE* out_;
  Kind kind_;
  int64_t every_;
  double smoothed_seconds_ = 0;  ///< of a step, recent ones count most
  std::string shown_;            ///< the line that stands on the terminal
  std::chrono::steady_clock::time_point drawn_{};
};

}  // namespace qat
