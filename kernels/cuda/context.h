// What a stream of the CUDA backend carries beside its queue: memory that kernels on it may use
// between two launches, and the tables they look up. Made once, so that no launch allocates.
#pragma once

#include <cstddef>

#include "kernels/dynamic_maps.h"
#include "kernels/stream.h"

namespace qat::cuda {

struct Gemms;  ///< cuBLASLt's handle and the plans found so far

inline constexpr size_t kWorkspaceBytes = size_t(1) << 20;

struct Context {
  void* queue = nullptr;  ///< cudaStream_t
  /// kWorkspaceBytes of device memory: what one kernel leaves for the next of the same call.
  std::byte* workspace = nullptr;
  const DynamicMaps* maps = nullptr;  ///< in device memory
  Gemms* gemms = nullptr;
};

inline Context& context_of(const Stream& stream) {
  return *static_cast<Context*>(stream.context());
}

template <class T>
T* workspace_of(const Stream& stream) {
  return reinterpret_cast<T*>(context_of(stream).workspace);
}

}  // namespace qat::cuda
