#include "engine/train/background_thread.h"

#include <pthread.h>

#include <csignal>

#include "engine/core/error.h"

namespace qat {

BackgroundThread::BackgroundThread() {
  // Signals are the main thread's: this one must never run their handlers.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "qat-background");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

BackgroundThread::~BackgroundThread() {
  {
    std::lock_guard guard(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void BackgroundThread::start(std::function<void()> work) {
  {
    std::lock_guard guard(mutex_);
    if (work_) internal_error("a background thread was given work while it had some");
    work_ = std::move(work);
  }
  changed_.notify_all();
}

bool BackgroundThread::busy() const {
  std::lock_guard guard(mutex_);
  return bool(work_);
}

void BackgroundThread::wait() const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !work_; });
}

void BackgroundThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return work_ || ending_; });
    if (!work_) return;
    lock.unlock();
    work_();
    lock.lock();
    work_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace qat
