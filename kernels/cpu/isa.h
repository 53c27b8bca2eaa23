// Which instruction set the CPU backend uses: detected once, lowered by the environment variable
// QAT_ISA=scalar|avx2|avx512|avx512_vnni|avx512_bf16|amx, and mirrored to oneDNN before its first
// use.
#pragma once

#include <string_view>

namespace qat::cpu {

/// Each level holds all before it (avx2 with FMA; avx512 = F, BW, DQ, VL).
enum class Isa { scalar, avx2, avx512, avx512_vnni, avx512_bf16, amx };

/// The level in use. The first call detects it and tells oneDNN; every kernel that uses oneDNN or
/// per-ISA functions goes through here first. Throws std::invalid_argument for an unknown QAT_ISA.
Isa isa();

/// The level called `name`. Throws std::invalid_argument for any other name.
Isa isa_named(std::string_view name);

/// True if int8 products are exact here (VNNI; without it they saturate in 16 bits).
inline bool has_exact_int8() {
  return isa() >= Isa::avx512_vnni;
}

/// True if bf16 products run natively; elsewhere bf16 is widened to f32 first.
inline bool has_bf16() {
  return isa() >= Isa::avx512_bf16;
}

}  // namespace qat::cpu
