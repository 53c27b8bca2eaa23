// bitsandbytes' 8-bit "dynamic" maps of optimizer states and the search for the nearest entry.
// Source of the format: bitsandbytes functional.py (create_dynamic_map) and csrc (quantize_2D).
#pragma once

#include <array>
#include <cstdint>

namespace qat {

/// 256 ascending values in [-1, 1] (first moment) or [0, 1] (second moment).
using DynamicMap = std::array<float, 256>;

DynamicMap signed_dynamic_map();
DynamicMap unsigned_dynamic_map();

/// Nearest entry of x in [-1, 1] by comparison with the midpoints; at a midpoint the even index, as
/// bitsandbytes' search ends. A negative x (also -0) never takes an entry of the other sign or 0.
int nearest_in_map(const DynamicMap& map, float x);

/// Finds nearest_in_map in one look-up: the upper 16 bits of a float choose an entry that holds the
/// index of the bucket's smallest magnitude and the lower 16 bits from which the index is one
/// further from 0. No bucket holds two midpoints.
struct NearestTable {
  static constexpr uint32_t kFirst = 0x3380;  ///< upper bits of 2^-24; smaller magnitudes share it
  static constexpr uint32_t kBuckets = 0x3F80 - kFirst + 1;  ///< up to 1.0
  static constexpr int kCutBits = 17;
  /// Positive magnitudes, then negative ones. Entry: index << kCutBits | cut, cut in [0, 65536].
  std::array<uint32_t, 2 * kBuckets> entries;
};

/// Everything a step of 8-bit AdamW looks up.
struct DynamicMaps {
  DynamicMap m, v;
  NearestTable m_nearest, v_nearest;
};

/// Built once, at first use.
const DynamicMaps& dynamic_maps();

}  // namespace qat
