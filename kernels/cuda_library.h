// What libqat_cuda.so offers: one function. Program and library are built together; the version
// keeps others apart.
#pragma once

#include <cstddef>

#include "kernels/backend.h"

namespace qat {

/// Grows with every change of Backend, KernelTable or an argument struct.
inline constexpr int kCudaLibraryVersion = 2;
inline constexpr const char* kOpenCuda = "qat_open_cuda";

/// A new backend on the first GPU, or null and the reason in one line.
using OpenCuda = Backend*(int version, char* reason, size_t reason_bytes);

}  // namespace qat
