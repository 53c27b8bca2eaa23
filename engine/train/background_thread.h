// One thread that does one piece of work at a time, beside the thread that owns it.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace qat {

class BackgroundThread {
 public:
  BackgroundThread();
  /// Waits for the work in hand.
  ~BackgroundThread();
  BackgroundThread(const BackgroundThread&) = delete;
  BackgroundThread& operator=(const BackgroundThread&) = delete;

  /// `work` must not throw, and the piece before it must be done.
  void start(std::function<void()> work);
  bool busy() const;
  void wait() const;

 private:
  void run();

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::function<void()> work_;  ///< empty: idle
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace qat
