// A stack of its own for a function, and the switch between such functions.
#pragma once

#include <cstddef>

namespace qat::cuda::emulation {

/// Runs `entry` on a stack of its own: resume() goes on with it until it calls suspend() or
/// returns. Not for exceptions: entry must not throw.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Begins anew; what an earlier entry left unfinished is forgotten.
  void start(void (*entry)(void*), void* argument);
  void resume();
  /// Called by the running entry: goes back to resume().
  void suspend();
  bool finished() const { return finished_; }

 private:
  static void begin(Fiber* self);

  std::byte* stack_ = nullptr;
  size_t end_;               ///< of the stack's bytes that are used
  void* inside_ = nullptr;   ///< where the entry goes on
  void* outside_ = nullptr;  ///< where resume() goes on
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool finished_ = true;
  // AddressSanitizer has to be told which stack is in use.
  void* outside_fake_ = nullptr;
  const void* outside_bottom_ = nullptr;
  size_t outside_size_ = 0;
};

}  // namespace qat::cuda::emulation
