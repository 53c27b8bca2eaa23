// What the kernels of this folder are written in. nvcc compiles them for the GPU; a C++ compiler
// compiles the same files against emulation/emulation.h, where the threads of a block are fibers
// of one processor, so that every kernel is tested where there is no GPU.
//
// Legend: a warp is 32 threads in step; kWarp of them share registers by shuffles. Blocks are
// multiples of a warp, every thread of a block reaches every barrier, and every lane of a warp
// every shuffle. No kernel adds floats atomically: sums have one order.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/cuda/context.h"
#include "kernels/float_types.h"
#include "kernels/stream.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define QAT_DEVICE __device__ __forceinline__
#else
#include "kernels/cuda/emulation/emulation.h"
#define QAT_DEVICE inline
#endif

namespace qat::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

/// Blocks of a launch.
struct Blocks {
  int64_t x = 1, y = 1, z = 1;
};

#if defined(__CUDACC__)

/// Shared memory of the size that a launch asked for.
QAT_DEVICE std::byte* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char qat_dynamic_shared[];
  return reinterpret_cast<std::byte*>(qat_dynamic_shared);
}

/// Queues kernel(args...) behind what the stream holds. Nothing runs for an empty grid. Throws
/// std::runtime_error if the launch itself is refused.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), Blocks grid, int threads, size_t shared_bytes,
            Stream& stream, const Args&... args) {
  if (grid.x <= 0 || grid.y <= 0 || grid.z <= 0) return;
  constexpr size_t kGranted = 48u << 10;  // more has to be asked for
  cudaError_t status = cudaSuccess;
  if (shared_bytes > kGranted)
    status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
  if (status == cudaSuccess) {
    const dim3 blocks{unsigned(grid.x), unsigned(grid.y), unsigned(grid.z)};
    kernel<<<blocks, unsigned(threads), shared_bytes,
             static_cast<cudaStream_t>(context_of(stream).queue)>>>(Parameters(args)...);
    status = cudaGetLastError();
  }
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("a CUDA kernel cannot be started: ") +
                             cudaGetErrorString(status));
}

/// d += a . b for a 16x16 and b 16x8 of bf16, in the fragments of mma.m16n8k16.
QAT_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8x8 tiles of 16-bit elements: lane l gives the address of row l % 8 of tile l / 8, and gets
/// of each tile elements 2 * (l % 4) and the next of row l / 4.
QAT_DEVICE void load_tiles(uint32_t (&r)[4], const void* row) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// As load_tiles, each tile transposed.
QAT_DEVICE void load_tiles_transposed(uint32_t (&r)[4], const void* row) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Starts a copy of 16 bytes from global to shared memory, of zeros where not `valid`.
QAT_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(bytes)
               : "memory");
}
/// Closes a group of copies of this thread.
QAT_DEVICE void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until all but the newest kLeft groups of this thread have arrived.
template <int kLeft>
QAT_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// Two floats as bf16, `low` in the lower half; half to even.
QAT_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

#else

inline std::byte* dynamic_shared() {
  return emulation::dynamic_shared();
}

template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), Blocks grid, int threads, size_t shared_bytes, Stream&,
            const Args&... args) {
  emulation::run({grid.x, grid.y, grid.z}, threads, shared_bytes,
                 [&] { kernel(Parameters(args)...); });
}

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::mma_bf16(d, a, b);
}
inline void load_tiles(uint32_t (&r)[4], const void* row) {
  emulation::load_tiles(r, row, emulation::Transposed::no);
}
inline void load_tiles_transposed(uint32_t (&r)[4], const void* row) {
  emulation::load_tiles(r, row, emulation::Transposed::yes);
}
inline void copy_async(void* shared, const void* global, bool valid) {
  emulation::copy_async(shared, global, valid);
}
inline void commit_copies() {
  emulation::commit_copies();
}
template <int kLeft>
inline void wait_copies() {
  emulation::wait_copies(kLeft);
}
inline uint32_t pack_bf16(float low, float high) {
  return uint32_t(to_bfloat16(low).bits) | uint32_t(to_bfloat16(high).bits) << 16;
}

#endif

QAT_DEVICE int lane_id() {
  return int(threadIdx.x) % kWarp;
}
QAT_DEVICE int warp_id() {
  return int(threadIdx.x) / kWarp;
}
QAT_DEVICE float low_half(uint32_t pair) {
  return float_of(pair << 16);
}
QAT_DEVICE float high_half(uint32_t pair) {
  return float_of(pair & 0xFFFF0000u);
}

}  // namespace qat::cuda
