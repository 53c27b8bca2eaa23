#include "engine/ptq/ggml_rounding.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "kernels/float_types.h"

namespace qat {
namespace {

constexpr int64_t kBlock = 32;

float as_f16(float value) {
  return to_float(to_float16(value));
}

float inverse(float scale) {
  return scale != 0.0f ? 1.0f / scale : 0.0f;
}

void snap_q8_0(float* x) {
  float amax = 0.0f;
  for (int64_t i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(x[i]));
  const float d = amax / 127.0f, id = inverse(d), stored = as_f16(d);
  for (int64_t i = 0; i < kBlock; ++i) x[i] = std::round(x[i] * id) * stored;
}

void snap_q4_0(float* x) {
  float amax = 0.0f, peak = 0.0f;
  for (int64_t i = 0; i < kBlock; ++i)
    if (amax < std::fabs(x[i])) {
      amax = std::fabs(x[i]);
      peak = x[i];
    }
  const float d = peak / -8.0f, id = inverse(d), stored = as_f16(d);
  for (int64_t i = 0; i < kBlock; ++i)
    x[i] = (std::min(15.0f, std::trunc(x[i] * id + 8.5f)) - 8.0f) * stored;
}

void snap_q4_1(float* x) {
  const auto [low, high] = std::minmax_element(x, x + kBlock);
  const float min = *low, d = (*high - min) / 15.0f, id = inverse(d);
  const float stored = as_f16(d), minimum = as_f16(min);
  for (int64_t i = 0; i < kBlock; ++i)
    x[i] = std::min(15.0f, std::trunc((x[i] - min) * id + 0.5f)) * stored + minimum;
}

}  // namespace

bool ggml_knows(const QuantSpec& spec) {
  const bool blocks = spec.form == Form::integer && spec.per == Per::group &&
                      spec.group == int(kBlock) && spec.scale_type == ScaleType::f16;
  const bool q8_0 = spec.bits == 8 && spec.range == Range::strict && spec.rule == ScaleRule::amax;
  const bool q4_0 =
      spec.bits == 4 && spec.range == Range::full && spec.rule == ScaleRule::signed_max;
  const bool q4_1 = spec.bits == 4 && spec.has_minimum();
  return blocks && (q8_0 || q4_0 || q4_1);
}

void ggml_snap(const QuantSpec& spec, float* values, int64_t count) {
  if (!ggml_knows(spec) || count % kBlock != 0) internal_error("ggml_snap: not one of its grids");
  for (int64_t i = 0; i < count; i += kBlock) {
    if (spec.has_minimum())
      snap_q4_1(values + i);
    else if (spec.bits == 4)
      snap_q4_0(values + i);
    else
      snap_q8_0(values + i);
  }
}

}  // namespace qat
