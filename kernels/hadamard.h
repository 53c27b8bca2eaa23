// The matrix that rotations are made of. For n = m * p, p the largest power of two that divides it:
//
//   R = (Hartley's matrix of order m, over sqrt(m)) x (Sylvester's Hadamard matrix of order p, over
//   sqrt(p)),  x the Kronecker product: element a * p + b is column b of run a.
//
// Hadamard matrices exist for few orders that are not powers of two, and 43 * 4 or 9 are none of
// those that are easily made. Hartley's (cos + sin of 2 pi a b / m; Hartley, 1942) is there for
// every m; its entries are at most sqrt(2) times as large as a Hadamard matrix's would be. Both are
// symmetric and orthogonal, and so is R: it is its own inverse, and its own gradient.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/host_device.h"

namespace qat {

struct HadamardOrder {
  int64_t odd, power;  ///< m, p
};

inline HadamardOrder hadamard_order(int64_t width) {
  const int64_t power = width & -width;
  return {width / power, power};
}

/// Entry (a, b) of Hartley's matrix of order m before its root, k = a * b.
QAT_HOST_DEVICE double hartley(int64_t k, int64_t m) {
  const double angle = 2.0 * std::numbers::pi * double(k % m) / double(m);
  return std::cos(angle) + std::sin(angle);
}

}  // namespace qat
