#include "kernels/cuda/emulation/emulation.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/fiber.h"
#include "kernels/float_types.h"

namespace qat::cuda {
namespace emulation {
namespace {

constexpr int kLanes = 32;
constexpr size_t kGuard = 64;
constexpr std::byte kPoison{0xFF};

struct Copy {
  void* to;
  const void* from;
  bool valid;
  int group;
};

struct Thread {
  Fiber fiber;
  enum class State { ready, at_warp, at_block, done } state = State::done;
  std::vector<Copy> copies;
  int open_group = 0;  ///< copies started now belong to this group
};

struct Warp {
  int arrived = 0;
  int operation = 0;  ///< which of the two buffers is being filled
  std::byte slots[2][kLanes * kSlot];
  const char* kinds[2][kLanes];
};

/// The block that runs on this processor's thread.
class Machine {
 public:
  void run(Blocks blocks, int threads, size_t shared_bytes, const std::function<void()>& body);
  void block_barrier() { wait(Thread::State::at_block); }
  const std::byte* exchange(const char* kind, const void* value, size_t bytes);
  int any(int predicate);
  std::byte* shared() { return shared_.data(); }
  Thread& current() { return *threads_[size_t(current_)]; }
  Order order = Order::forward;

 private:
  void run_block();
  void run_warps();
  void resume(int thread);
  void wait(Thread::State state);
  [[noreturn]] void fail(const std::string& what);
  int place(int i, int count) const { return order == Order::forward ? i : count - 1 - i; }

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::vector<std::byte> shared_;
  const std::function<void()>* body_ = nullptr;
  int count_ = 0, current_ = 0, at_block_ = 0, done_ = 0;
  int any_ = 0, any_result_ = 0;
  std::string failure_;
};

Machine& machine() {
  static thread_local Machine machine;
  return machine;
}

void Machine::fail(const std::string& what) {
  throw std::logic_error("emulated kernel, block " + std::to_string(blockIdx.x) + ", " +
                         std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ": " +
                         what);
}

void Machine::run(Blocks blocks, int threads, size_t shared_bytes,
                  const std::function<void()>& body) {
  if (threads % kLanes != 0 || threads > 1024 || threads < kLanes)
    throw std::logic_error("emulated kernel: a block of " + std::to_string(threads) + " threads");
  if (shared_bytes > 227 << 10)
    throw std::logic_error("emulated kernel: " + std::to_string(shared_bytes) +
                           " bytes of shared memory");
  count_ = threads;
  body_ = &body;
  while (int(threads_.size()) < threads) threads_.push_back(std::make_unique<Thread>());
  warps_.resize(size_t(threads / kLanes));
  blockDim = {unsigned(threads), 1, 1};
  gridDim = {unsigned(blocks.x), unsigned(blocks.y), unsigned(blocks.z)};
  const int64_t total = blocks.x * blocks.y * blocks.z;
  for (int64_t i = 0; i < total; ++i) {
    const int64_t at = order == Order::forward ? i : total - 1 - i;
    blockIdx = {unsigned(at % blocks.x), unsigned(at / blocks.x % blocks.y),
                unsigned(at / (blocks.x * blocks.y))};
    shared_.assign(shared_bytes + kGuard, kPoison);
    run_block();
    for (size_t byte = shared_bytes; byte < shared_.size(); ++byte)
      if (shared_[byte] != kPoison) fail("a write past its shared memory");
  }
}

void Machine::run_block() {
  at_block_ = done_ = 0;
  for (Warp& warp : warps_) warp.arrived = warp.operation = 0;
  for (int i = 0; i < count_; ++i) {
    Thread& thread = *threads_[size_t(i)];
    thread.state = Thread::State::ready;
    thread.copies.clear();
    thread.open_group = 0;
    thread.fiber.start([](void* self) { (*static_cast<Machine*>(self)->body_)(); }, this);
  }
  failure_.clear();
  while (done_ < count_) {
    run_warps();
    if (!failure_.empty()) fail(failure_);
    if (done_ == count_) break;
    if (done_ > 0) fail("a thread left before a barrier");
    if (at_block_ < count_) fail("threads of a warp wait for each other");
    at_block_ = 0;
    any_result_ = any_;
    any_ = 0;
    for (int i = 0; i < count_; ++i) threads_[size_t(i)]->state = Thread::State::ready;
  }
}

// Every warp until its threads are all at the block's barrier, or done.
void Machine::run_warps() {
  const int warps = count_ / kLanes;
  for (int w = 0; w < warps; ++w) {
    const int first = place(w, warps) * kLanes;
    for (bool progress = true; progress && failure_.empty();) {
      progress = false;
      for (int l = 0; l < kLanes; ++l) {
        const int thread = first + place(l, kLanes);
        if (threads_[size_t(thread)]->state != Thread::State::ready) continue;
        resume(thread);
        progress = true;
      }
    }
  }
}

void Machine::resume(int index) {
  Thread& thread = *threads_[size_t(index)];
  current_ = index;
  threadIdx = {unsigned(index), 0, 0};
  thread.fiber.resume();
  if (!thread.fiber.finished()) return;
  thread.state = Thread::State::done;
  ++done_;
}

void Machine::wait(Thread::State state) {
  const int index = current_;
  Thread& thread = *threads_[size_t(index)];
  thread.state = state;
  if (state == Thread::State::at_block) ++at_block_;
  if (state == Thread::State::at_warp) {
    Warp& warp = warps_[size_t(index / kLanes)];
    if (++warp.arrived == kLanes) {
      warp.arrived = 0;
      warp.operation ^= 1;
      const int first = index / kLanes * kLanes;
      for (int i = first; i < first + kLanes; ++i)
        threads_[size_t(i)]->state = Thread::State::ready;
    }
  }
  thread.fiber.suspend();
}

const std::byte* Machine::exchange(const char* kind, const void* value, size_t bytes) {
  Warp& warp = warps_[size_t(current_ / kLanes)];
  const int lane = current_ % kLanes, buffer = warp.operation;
  std::memcpy(warp.slots[buffer] + size_t(lane) * kSlot, value, bytes);
  warp.kinds[buffer][lane] = kind;
  wait(Thread::State::at_warp);
  for (const char* other : warp.kinds[buffer])
    if (std::strcmp(kind, other) != 0)
      failure_ = std::string("lanes of a warp meet in ") + kind + " and " + other;
  return warp.slots[buffer];
}

int Machine::any(int predicate) {
  any_ |= int(predicate != 0);
  wait(Thread::State::at_block);
  return any_result_;
}

void arrive(const Copy& copy) {
  if (copy.valid)
    std::memcpy(copy.to, copy.from, 16);
  else
    std::memset(copy.to, 0, 16);
}

float half_of(uint32_t pair, int half) {
  return float_of(half == 0 ? pair << 16 : pair & 0xFFFF0000u);
}

}  // namespace

void set_order(Order order) {
  machine().order = order;
}

void run(Blocks blocks, int threads, size_t shared_bytes, const std::function<void()>& body) {
  machine().run(blocks, threads, shared_bytes, body);
}

std::byte* dynamic_shared() {
  return machine().shared();
}

void block_barrier() {
  machine().block_barrier();
}

const std::byte* exchange(const char* kind, const void* value, size_t bytes) {
  return machine().exchange(kind, value, bytes);
}

// Fragments as the PTX manual draws them for m16n8k16: with group = lane / 4 and pair = lane % 4, a
// holds rows group and group + 8 of columns 2 * pair, + 1, + 8, + 9; b the same rows of column
// group; d rows group and group + 8 of columns 2 * pair and + 1.
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    uint32_t a[4], b[2];
  } own;
  std::copy(a, a + 4, own.a);
  std::copy(b, b + 2, own.b);
  const std::byte* slots = exchange("mma", &own, sizeof own);
  const int lane = int(threadIdx.x) % kLanes;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
    float sum = d[i];
    for (int k = 0; k < 16; k += 2) {
      const int pair = k % 8 / 2, upper = k / 8;
      const auto left = lane_value<Fragments>(slots, row % 8 * 4 + pair);
      const auto right = lane_value<Fragments>(slots, column * 4 + pair);
      const uint32_t x = left.a[row / 8 + 2 * upper], y = right.b[upper];
      sum += half_of(x, 0) * half_of(y, 0);
      sum += half_of(x, 1) * half_of(y, 1);
    }
    d[i] = sum;
  }
}

void load_tiles(uint32_t (&r)[4], const void* row, Transposed transposed) {
  const std::byte* slots = exchange("load_tiles", &row, sizeof row);
  const int lane = int(threadIdx.x) % kLanes;
  for (int tile = 0; tile < 4; ++tile) {
    const auto element = [&](int i, int j) {
      const auto* elements = lane_value<const uint16_t*>(slots, tile * 8 + i);
      return uint32_t(elements[j]);
    };
    const int i = lane / 4, j = lane % 4 * 2;
    r[tile] = transposed == Transposed::yes ? element(j, i) | element(j + 1, i) << 16
                                            : element(i, j) | element(i, j + 1) << 16;
  }
  // Nobody may overwrite the tiles while another lane still reads them.
  const char nothing = 0;
  exchange("load_tiles", &nothing, 1);
}

// Copies arrive as late as they may in one order and at once in the other: both who does not wait
// for them and who starts them too early is found.
void copy_async(void* shared, const void* global, bool valid) {
  const Copy copy{shared, global, valid, machine().current().open_group};
  if (machine().order == Order::backward)
    arrive(copy);
  else
    machine().current().copies.push_back(copy);
}

void commit_copies() {
  ++machine().current().open_group;
}

void wait_copies(int left) {
  Thread& thread = machine().current();
  std::vector<Copy> waiting;
  for (const Copy& copy : thread.copies) {
    if (copy.group >= thread.open_group - left)
      waiting.push_back(copy);
    else
      arrive(copy);
  }
  thread.copies = std::move(waiting);
}

}  // namespace emulation

int __syncthreads_or(int predicate) {
  return emulation::machine().any(predicate);
}

}  // namespace qat::cuda
