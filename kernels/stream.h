// Where work is queued. On the CPU that is a number of OpenMP threads; kernels run at once.
#pragma once

namespace qat {

class Stream {
 public:
  /// threads 0 = what OpenMP would take (respects OMP_NUM_THREADS and affinity).
  explicit Stream(int threads = 0);
  int threads() const { return threads_; }

 private:
  int threads_;
};

}  // namespace qat
