#include "kernels/dynamic_maps.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/float_types.h"

namespace qat {
namespace {

/// torch.linspace(0.1, 1, steps) in f32 as PyTorch's CPU build computes it: counted from the nearer
/// end, with one rounding a value.
std::vector<float> linspace_f32(int steps) {
  const float start = 0.1f, end = 1.0f, step = (end - start) / float(steps - 1);
  std::vector<float> values(static_cast<size_t>(steps));
  for (int i = 0; i < steps; ++i)
    values[size_t(i)] = i < steps / 2 ? std::fma(step, float(i), start)
                                      : std::fma(-step, float(steps - 1 - i), end);
  return values;
}

enum class Sign { with, without };

DynamicMap build_map(Sign sign) {
  std::vector<float> values = {0.0f, 1.0f};
  for (int i = 0; i < 7; ++i) {
    const int count = sign == Sign::with ? 1 << i : 1 << (i + 1);
    const std::vector<float> edges = linspace_f32(count + 1);
    for (int k = 0; k < count; ++k) {
      const float middle = (edges[size_t(k)] + edges[size_t(k) + 1]) / 2.0f;
      const float value = float(std::pow(10.0, double(i - 6))) * middle;
      values.push_back(value);
      if (sign == Sign::with) values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  DynamicMap map{};
  std::copy(values.begin(), values.end(), map.begin());
  return map;
}

NearestTable build_table(const DynamicMap& map) {
  NearestTable table{};
  const uint32_t buckets = NearestTable::kBuckets;
  for (uint32_t negative = 0; negative < 2; ++negative)
    for (uint32_t bucket = 0; bucket < buckets; ++bucket) {
      const uint32_t upper = (negative << 15 | (NearestTable::kFirst + bucket)) << 16;
      const int index = nearest_in_map(map, float_of(upper));
      uint32_t low = 0, high = 0x10000;  // the index changes in (low, high]; 65536: nowhere
      while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        (nearest_in_map(map, float_of(upper | middle)) == index ? low : high) = middle;
      }
      table.entries[negative * buckets + bucket] = uint32_t(index) << NearestTable::kCutBits | high;
    }
  return table;
}

DynamicMaps build_maps() {
  DynamicMaps maps;
  maps.m = signed_dynamic_map();
  maps.v = unsigned_dynamic_map();
  maps.m_nearest = build_table(maps.m);
  maps.v_nearest = build_table(maps.v);
  return maps;
}

}  // namespace

DynamicMap signed_dynamic_map() {
  return build_map(Sign::with);
}
DynamicMap unsigned_dynamic_map() {
  return build_map(Sign::without);
}

int nearest_in_map(const DynamicMap& map, float x) {
  const bool negative = (bits_of(x) >> 31) != 0;
  int index = 0;
  for (int step = 128; step > 0; step /= 2) {
    const int candidate = index + step;  // taken if x lies above the midpoint below it
    const float lower = map[size_t(candidate - 1)], upper = map[size_t(candidate)];
    const float midpoint = (lower + upper) * 0.5f;
    const bool above = candidate % 2 == 0 ? x >= midpoint : x > midpoint;
    if (above) index = candidate;
  }
  if (negative)
    while (index > 0 && map[size_t(index)] >= 0.0f) --index;
  return index;
}

const DynamicMaps& dynamic_maps() {
  static const DynamicMaps maps = build_maps();
  return maps;
}

}  // namespace qat
