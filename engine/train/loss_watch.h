// Spikes of the loss: how far a step's loss lies above those of the steps before it.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <vector>

namespace qat {

/// The losses of the last steps. What it says depends on them alone, so that a resumed run that
/// restores them says the same.
class LossWatch {
 public:
  /// Standard deviations between `loss` and the mean of the recent losses; nothing while there are
  /// too few of them. The deviation counts as at least a hundredth of the mean: losses that hardly
  /// move make no spike of a small step.
  std::optional<double> z_score(double loss) const;
  void add(double loss);
  /// After something that moves the loss on purpose, such as another layer quantized.
  void forget() { recent_.clear(); }

  std::vector<double> recent() const { return {recent_.begin(), recent_.end()}; }
  void restore(const std::vector<double>& recent) { recent_ = {recent.begin(), recent.end()}; }

 private:
  std::deque<double> recent_;
};

}  // namespace qat
