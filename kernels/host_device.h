// Functions that run on host and device alike are marked QAT_HOST_DEVICE.
#pragma once

// always_inline on the host: files compiled for several instruction sets share such functions, and
// no copy made for one processor may be picked by the linker for another.
#if defined(__CUDACC__)
#define QAT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define QAT_HOST_DEVICE inline __attribute__((always_inline))
#endif
