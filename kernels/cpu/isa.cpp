// Detection by CPUID, the QAT_ISA override, and the mirror to oneDNN.
#include "kernels/cpu/isa.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace qat::cpu {
namespace {

struct Level {
  std::string_view name;
  Isa isa;
  dnnl::cpu_isa dnnl;
  const char* shown;
};

constexpr Level kLevels[] = {
    {"scalar", Isa::scalar, dnnl::cpu_isa::sse41, "scalar"},
    {"avx2", Isa::avx2, dnnl::cpu_isa::avx2, "avx2"},
    {"avx512", Isa::avx512, dnnl::cpu_isa::avx512_core, "avx512"},
    {"avx512_vnni", Isa::avx512_vnni, dnnl::cpu_isa::avx512_core_vnni, "avx512+vnni"},
    {"avx512_bf16", Isa::avx512_bf16, dnnl::cpu_isa::avx512_core_bf16, "avx512+vnni+bf16"},
    {"amx", Isa::amx, dnnl::cpu_isa::avx512_core_amx, "avx512+vnni+bf16+amx"},
};

const Level& level_of(Isa isa) {
  return kLevels[int(isa)];
}

/// True if processor and kernel let this process use AMX tiles with bf16 and int8.
bool amx_usable() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0 || (d & kAmxInt8) == 0) return false;
  // Linux hands out the tile state on request only (arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)).
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5)) != 0;
}

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::scalar;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return Isa::avx2;
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::avx512;
  if (!has_avx512_bf16()) return Isa::avx512_vnni;
  return amx_usable() ? Isa::amx : Isa::avx512_bf16;
}

Isa choose() {
  Isa found = detect();
  if (const char* wanted = std::getenv("QAT_ISA"); wanted != nullptr && *wanted != '\0')
    found = std::min(found, isa_named(wanted));
  dnnl::set_max_cpu_isa(level_of(found).dnnl);
  return found;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

Isa isa_named(std::string_view name) {
  std::string all;
  for (const Level& level : kLevels) {
    if (level.name == name) return level.isa;
    all += all.empty() ? "" : ", ";
    all += level.name;
  }
  throw std::invalid_argument("QAT_ISA: expected one of " + all + ", got '" + std::string(name) +
                              "'; unset it to use all this processor has");
}

}  // namespace qat::cpu

namespace qat {

const char* cpu_isa() {
  return cpu::level_of(cpu::isa()).shown;
}

}  // namespace qat
