// Which layers are quantized at a step: none during the bf16 warm-up, then K more every M steps. A
// pure function of the step, so that a resume in any phase lands on the same layers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

enum class EnableOrder : uint8_t {
  front_to_back,
  back_to_front,
  listed  ///< as QuantScheduleOptions::list says, e.g. by measured sensitivity
};

struct QuantScheduleOptions {
  int64_t layers = 0;
  int64_t warmup_bf16 = 0;  ///< steps before anything is quantized
  EnableOrder order = EnableOrder::front_to_back;
  /// The layers that are quantized at all, each once; empty = every layer. With EnableOrder::listed
  /// the first enabled comes first, and it cannot be empty.
  std::vector<int64_t> list = {};
  int64_t layers_per_stage = 0;  ///< K; 0 = all at once
  int64_t every = 1;             ///< M, steps from one stage to the next
};

class QuantSchedule {
 public:
  /// Refuses numbers below their least, and a list with a layer twice or one that is not there.
  explicit QuantSchedule(QuantScheduleOptions options);

  /// Layers that are quantized in the end.
  int64_t layers() const { return int64_t(order_.size()); }
  /// How many layers are quantized at `step`.
  int64_t enabled_count(int64_t step) const;
  /// Which, in increasing order.
  std::vector<int64_t> enabled_layers(int64_t step) const;
  /// The first step at which all of them are quantized.
  int64_t all_enabled_at() const;
  /// The steps at which the set differs from the step before; step 0 only if layers start
  /// quantized.
  std::vector<int64_t> change_steps() const;
  /// One line for --dry-run, for a run of `steps`:
  /// "bf16 0..49 | 30 layers front to back, 3 every 10 steps, 50..139 | all 30 layers quantized
  /// 140..299".
  std::string timeline(int64_t steps) const;

 private:
  int64_t stages() const;

  QuantScheduleOptions options_;
  std::vector<int64_t> order_;
};

}  // namespace qat
