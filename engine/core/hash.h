// A hash of names, to give each tensor or layer random numbers of its own.
#pragma once

#include <cstdint>
#include <string_view>

namespace qat {

/// FNV-1a.
inline uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : text) hash = (hash ^ uint8_t(c)) * 0x100000001b3ull;
  return hash;
}

}  // namespace qat
