#include "models/quantized_matrix.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "kernels/float_types.h"
#include "kernels/quant_math.h"

namespace qat {

void check_matrix(const QuantizedMatrix& m, const std::string& name) {
  if (m.shape.rank() != 2) refuse("{}: a quantized matrix needs 2 dimensions", name);
  const QuantSpec& spec = m.spec;
  if (spec.bits < 2 || spec.bits > 8) refuse("{}: {} bits, expected 2 to 8", name, spec.bits);
  if (spec.per == Per::group && (spec.group < 1 || m.shape[1] % spec.group != 0))
    refuse("{}: groups of {} do not divide rows of {}", name, spec.group, m.shape[1]);
  const size_t count = size_t(m.shape.count());
  const size_t scales = spec.per == Per::tensor ? 1 : size_t(m.shape[0] * m.groups());
  if (m.codes.size() != count || m.scales.size() != scales ||
      m.zeros.size() != (spec.symmetric() ? 0 : scales))
    refuse("{}: {} codes, {} scales, {} zero points; expected {}, {}, {}", name, m.codes.size(),
           m.scales.size(), m.zeros.size(), count, scales, spec.symmetric() ? 0 : scales);
  if (!m.group_of.empty()) {
    const bool fits = spec.per == Per::group && int64_t(m.group_of.size()) == m.shape[1] &&
                      std::all_of(m.group_of.begin(), m.group_of.end(),
                                  [&](int32_t g) { return g >= 0 && g < m.groups(); });
    if (!fits) refuse("{}: its list of groups is not one of {} columns", name, m.shape[1]);
  }
  // Symmetric codes may use the whole range whatever the trained one was.
  const int low = -(1 << (spec.bits - 1)), high = spec.qmax();
  if (spec.form == Form::e4m3)
    for (size_t i = 0; i < count; ++i)
      if (is_nan(number_of(spec, m.codes[i])))
        refuse("{}: code {} at element {} is not a number", name, int(uint8_t(m.codes[i])), i);
  for (size_t i = 0; i < count; ++i)
    if (m.codes[i] < low || m.codes[i] > high)
      refuse("{}: code {} at element {}, {} bits hold {} to {}", name, int(m.codes[i]), i,
             spec.bits, low, high);
  for (size_t i = 0; i < scales; ++i)
    if (!std::isfinite(m.scales[i]))
      refuse("{}: scale {} at {}, expected finite numbers", name, m.scales[i], i);
  if (spec.has_minimum()) {
    for (size_t i = 0; i < m.zeros.size(); ++i)
      if (!std::isfinite(m.zeros[i]))
        refuse("{}: minimum {} at {}, expected finite numbers", name, m.zeros[i], i);
    return;
  }
  for (size_t i = 0; i < m.zeros.size(); ++i)
    if (m.zeros[i] != std::trunc(m.zeros[i]) || m.zeros[i] < float(low) || m.zeros[i] > float(high))
      refuse("{}: zero point {} at {}, expected whole numbers from {} to {}", name, m.zeros[i], i,
             low, high);
}

void check_positive_scales(const QuantizedMatrix& m, const std::string& name) {
  for (size_t i = 0; i < m.scales.size(); ++i)
    if (!(m.scales[i] > 0.0f))
      refuse("{}: scale {} at {}, expected positive numbers", name, m.scales[i], i);
}

void dequantize(const QuantizedMatrix& m, float* out) {
  const int64_t rows = m.shape[0], columns = m.shape[1];
  const int64_t run = m.spec.per == Per::group ? m.spec.group : columns;
  const int64_t group = m.group_of.empty() ? run : 1;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t begin = 0; begin < columns; begin += group) {
      const size_t at = m.scale_index(row, begin);
      const Grid grid = stored_grid(m.spec, m.scales[at], m.zeros.empty() ? 0.0f : m.zeros[at]);
      for (int64_t i = row * columns + begin; i < row * columns + begin + group; ++i)
        out[i] = value_of(number_of(m.spec, m.codes[size_t(i)]), grid);
    }
}

std::string difference(const QuantizedMatrix& a, const QuantizedMatrix& b) {
  if (a.shape != b.shape) return "shapes differ";
  if (a.group_of != b.group_of) return "the groups of columns differ";
  if (a.codes.size() != b.codes.size() || a.scales.size() != b.scales.size())
    return "numbers of codes or scales differ";
  for (size_t i = 0; i < a.codes.size(); ++i)
    if (a.codes[i] != b.codes[i])
      return fmt::format("code {} is {}, not {}", i, int(b.codes[i]), int(a.codes[i]));
  for (size_t i = 0; i < a.scales.size(); ++i)
    if (bits_of(a.scales[i]) != bits_of(b.scales[i]))
      return fmt::format("scale {} is {}, not {}", i, b.scales[i], a.scales[i]);
  // No zero points, and zero points that are all 0, are one grid.
  const auto zero = [](const QuantizedMatrix& m, size_t i) {
    return m.zeros.empty() ? 0.0f : m.zeros[i];
  };
  for (size_t i = 0; i < a.scales.size(); ++i)
    if (zero(a, i) != zero(b, i))
      return fmt::format("zero point {} is {}, not {}", i, zero(b, i), zero(a, i));
  return "";
}

}  // namespace qat
