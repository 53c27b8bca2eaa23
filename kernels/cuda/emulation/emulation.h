// The machine that kernels/cuda/*.cu see when a C++ compiler compiles them: blocks one after the
// other, the threads of a block as fibers that are switched at barriers and shuffles. It is strict
// where a GPU is silent: a thread that leaves while others wait, lanes that meet in different
// operations, and copies that were not waited for all fail or give poison. Threads and blocks can
// run in several orders; a kernel whose results depend on the order has a race.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local

namespace qat::cuda {

struct Index {
  unsigned x, y, z;
};
inline constinit thread_local Index threadIdx{}, blockIdx{}, blockDim{}, gridDim{};

namespace emulation {

/// The order in which blocks, and the threads between two barriers, run; asynchronous copies arrive
/// at their wait going forward, and at once going backward.
enum class Order { forward, backward };
void set_order(Order order);

struct Blocks {
  int64_t x, y, z;
};
/// Runs body once for each thread. Throws std::logic_error if threads wait for each other in vain.
void run(Blocks blocks, int threads, size_t shared_bytes, const std::function<void()>& body);

std::byte* dynamic_shared();

/// Waits for all threads of the block.
void block_barrier();

/// Waits for all lanes of the warp, which gave `bytes` each to an operation named `kind`; their
/// values lie kSlot bytes apart until the warp's next operation.
inline constexpr size_t kSlot = 64;
const std::byte* exchange(const char* kind, const void* value, size_t bytes);

template <class T>
T lane_value(const std::byte* slots, int lane) {
  T value;
  std::memcpy(&value, slots + size_t(lane) * kSlot, sizeof value);
  return value;
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

enum class Transposed { no, yes };
void load_tiles(uint32_t (&r)[4], const void* row, Transposed transposed);

void copy_async(void* shared, const void* global, bool valid);
void commit_copies();
void wait_copies(int left);

}  // namespace emulation

inline void __syncthreads() {
  emulation::block_barrier();
}
inline void __syncwarp() {
  const char nothing = 0;
  emulation::exchange("syncwarp", &nothing, 1);
}
int __syncthreads_or(int predicate);

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulation::lane_value<T>(emulation::exchange("shfl", &value, sizeof value), lane & 31);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const int lane = int(threadIdx.x & 31u) ^ mask;
  return emulation::lane_value<T>(emulation::exchange("shfl_xor", &value, sizeof value), lane);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const std::byte* slots = emulation::exchange("ballot", &predicate, sizeof predicate);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane)
    bits |= unsigned(emulation::lane_value<int>(slots, lane) != 0) << lane;
  return bits;
}

template <class T>
T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}
inline int atomicMax(int* at, int value) {
  const int old = *at;
  *at = value > old ? value : old;
  return old;
}
inline int atomicMin(int* at, int value) {
  const int old = *at;
  *at = value < old ? value : old;
  return old;
}

using std::exp;
using std::exp2;
using std::log;
using std::log2;
using std::sqrt;

}  // namespace qat::cuda
