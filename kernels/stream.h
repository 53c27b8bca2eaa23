// Where work is queued. On the CPU that is a number of OpenMP threads; kernels run at once. On a
// GPU it is a queue, which the backend that made the stream keeps.
#pragma once

namespace qat {

class Stream {
 public:
  /// threads 0 = what OpenMP would take (respects OMP_NUM_THREADS and affinity), but no more than
  /// there are processors: more only wait for each other, and OMP_NUM_THREADS may be anything.
  explicit Stream(int threads = 0);
  /// A stream of a backend that queues: `context` is that backend's own, `wait` waits for it.
  Stream(void* context, void (*wait)(void* context))
      : threads_(1), context_(context), wait_(wait) {}

  int threads() const { return threads_; }
  void* context() const { return context_; }
  /// Returns when everything queued has run: only then may the host look at what kernels write, or
  /// change what they read. Throws std::runtime_error when the device reports a fault.
  void wait() const {
    if (wait_ != nullptr) wait_(context_);
  }

 private:
  int threads_;
  void* context_ = nullptr;
  void (*wait_)(void*) = nullptr;
};

}  // namespace qat
