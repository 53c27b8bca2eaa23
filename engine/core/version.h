// The program's name and version, as files we write carry them.
#pragma once

namespace qat {

inline constexpr const char* kProgram = "qat-train";
inline constexpr const char* kVersion = "0.1.0";

}  // namespace qat
