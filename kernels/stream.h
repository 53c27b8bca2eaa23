// Where work is queued. On the CPU that is a number of OpenMP threads; kernels run at once.
#pragma once

namespace qat {

class Stream {
 public:
  /// threads 0 = what OpenMP would take (respects OMP_NUM_THREADS and affinity), but no more than
  /// there are processors: more only wait for each other, and OMP_NUM_THREADS may be anything.
  explicit Stream(int threads = 0);
  int threads() const { return threads_; }

 private:
  int threads_;
};

}  // namespace qat
