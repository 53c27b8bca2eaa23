#include "engine/train/loss_watch.h"

#include <algorithm>
#include <cmath>

namespace qat {
namespace {

constexpr size_t kWindow = 32;
constexpr size_t kFewest = 8;
constexpr double kLeastDeviation = 0.01;  ///< of the mean

}  // namespace

std::optional<double> LossWatch::z_score(double loss) const {
  if (recent_.size() < kFewest) return std::nullopt;
  double mean = 0, squares = 0;
  for (const double x : recent_) mean += x;
  mean /= double(recent_.size());
  for (const double x : recent_) squares += (x - mean) * (x - mean);
  const double deviation =
      std::max(std::sqrt(squares / double(recent_.size() - 1)), kLeastDeviation * std::abs(mean));
  if (deviation == 0) return std::nullopt;
  return (loss - mean) / deviation;
}

void LossWatch::add(double loss) {
  recent_.push_back(loss);
  if (recent_.size() > kWindow) recent_.pop_front();
}

}  // namespace qat
