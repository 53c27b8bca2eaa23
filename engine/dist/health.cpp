#include "engine/dist/health.h"

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/core/log.h"
#include "engine/dist/watchdog.h"
#include "engine/dist/watched.h"

namespace qat {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kTick{100};
constexpr double kMostPerLook = 0.5;     // seconds a look counts at most: see RanClock
constexpr milliseconds kAlike{1000};     // all that refuse the same do so within this time
constexpr milliseconds kTold{10'000};    // the one that tells why may itself be killed
constexpr milliseconds kTogether{2000};  // an early one would have the others killed
constexpr double kSlow = 1.5;
constexpr int kSlowSteps = 10, kQuietSteps = 100;

template <class Condition>
bool wait_for(const Condition& condition, milliseconds most) {
  const auto end = Clock::now() + most;
  while (!condition()) {
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

}  // namespace

class RunHealth::Impl {
 public:
  Impl(std::unique_ptr<Communicator> ranks, std::function<void(const std::string&)> say)
      : say_(std::move(say)), ranks_(std::move(ranks)), board_(*ranks_) {
    watched_.emplace(*ranks_, board_.mine());
    if (ranks_->size() == 1) return;
    // Signals are the main thread's: this one must never run their handlers.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  // Somebody may fail while this rank waits for all to end.
  ~Impl() {
    board_.mine().waiting.store(Collective::barrier);
    ranks_.reset();
    if (!thread_.joinable()) return;
    {
      std::lock_guard guard(mutex_);
      stopping_ = true;
    }
    stop_.notify_all();
    thread_.join();
  }

  Communicator& ranks() { return *watched_; }

  void watch(double seconds) {
    std::lock_guard guard(mutex_);
    watchdog_.emplace(WatchdogOptions{.seconds = seconds, .ranks = ranks_->size()});
  }

  void at(int64_t step, RunStage stage) {
    LifeSign& mine = board_.mine();
    if (stage == RunStage::step) watched_->take_waited_seconds();
    mine.step.store(step, std::memory_order_relaxed);
    mine.stage.store(stage, std::memory_order_relaxed);
    mine.progress.fetch_add(1, std::memory_order_relaxed);
  }

  void finish_step(int64_t step, double seconds);
  [[noreturn]] void leave(int code, const std::string& message);

 private:
  void run();
  [[noreturn]] void end();
  bool all_signs(const std::function<bool(const LifeSign&)>& holds) const {
    return std::all_of(board_.signs().begin(), board_.signs().end(),
                       [&](const LifeSign* sign) { return holds(*sign); });
  }
  bool is_reporter() {
    int32_t nobody = 0;
    return board_.common().reporter.compare_exchange_strong(nobody, rank_ + 1);
  }

  std::function<void(const std::string&)> say_;
  std::unique_ptr<Communicator> ranks_;
  const int rank_ = ranks_->rank();
  Board board_;
  std::optional<Watched> watched_;
  int slow_steps_ = 0, slowest_ = -1;
  int64_t quiet_until_ = 0;

  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::optional<Watchdog> watchdog_;
  std::thread thread_;
};

void RunHealth::Impl::run() {
  RanClock clock(Clock::now(), kMostPerLook);
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, kTick, [this] { return stopping_; })) {
    board_.mine().beats.fetch_add(1, std::memory_order_relaxed);
    if (board_.common().code.load() != 0) end();
    const double now = clock.at(Clock::now());
    if (!watchdog_) continue;
    std::vector<Seen> seen;
    for (size_t r = 0; r < board_.signs().size(); ++r) {
      const LifeSign& s = *board_.signs()[r];
      seen.push_back({.rank = board_.ranks()[r],
                      .beats = s.beats,
                      .progress = s.progress,
                      .collectives = s.collectives,
                      .step = s.step,
                      .stage = s.stage,
                      .waiting = s.waiting});
    }
    const auto reason = watchdog_->look(seen, now);
    if (!reason || !is_reporter()) continue;
    say_(*reason + "; run the same command again to go on from the newest checkpoint");
    board_.common().code.store(int(Exit::rank_failed) + 1);
  }
}

// All within a moment: mpirun and srun kill the others once the first has left, and srun would
// then report that.
void RunHealth::Impl::end() {
  board_.mine().leaving.store(1);
  wait_for([this] { return all_signs([](const LifeSign& s) { return s.leaving != 0; }); },
           kTogether);
  _exit(board_.common().code.load() - 1);
}

void RunHealth::Impl::leave(int code, const std::string& message) {
  board_.mine().failure.store(fnv1a(message) | 1);
  if (is_reporter()) {
    const uint64_t mine = board_.mine().failure;
    const auto failed = [](const LifeSign& s) { return s.failure != 0; };
    wait_for([&] { return all_signs(failed); }, kAlike);
    const bool alike = all_signs([mine](const LifeSign& s) { return s.failure == mine; });
    if (!message.empty()) say_(alike ? message : fmt::format("rank {}: {}", rank_, message));
    board_.common().code.store(code + 1);
  } else if (!wait_for([this] { return board_.common().code != 0; }, kTold)) {
    board_.common().code.store(code + 1);
  }
  std::fflush(nullptr);
  end();
}

void RunHealth::Impl::finish_step(int64_t step, double seconds) {
  if (ranks_->size() == 1) return;
  std::vector<double> own(size_t(ranks_->size()), 0.0);
  own[size_t(rank_)] = std::max(0.0, seconds - watched_->take_waited_seconds());
  watched_->all_reduce(own);
  const auto [least, most] = std::minmax_element(own.begin(), own.end());
  const int slowest = int(most - own.begin());
  const bool slow = *most > kSlow * *least;
  slow_steps_ = slow && slowest == slowest_ ? slow_steps_ + 1 : int(slow);
  slowest_ = slowest;
  if (rank_ == 0 && slow_steps_ >= kSlowSteps && step >= quiet_until_) {
    quiet_until_ = step + kQuietSteps;
    log::warn(
        "rank {} is slow: its own part of step {} took {:.3f} s, that of the fastest {:.3f} s",
        slowest, step, *most, *least);
  }
}

RunHealth::RunHealth(std::unique_ptr<Communicator> ranks,
                     std::function<void(const std::string&)> say)
    : impl_(std::make_unique<Impl>(std::move(ranks), std::move(say))) {}
RunHealth::~RunHealth() = default;

Communicator& RunHealth::ranks() {
  return impl_->ranks();
}
void RunHealth::watch(double seconds) {
  impl_->watch(seconds);
}
void RunHealth::at(int64_t step, RunStage stage) {
  impl_->at(step, stage);
}
void RunHealth::finish_step(int64_t step, double seconds) {
  impl_->finish_step(step, seconds);
}
void RunHealth::leave(int code, const std::string& message) {
  impl_->leave(code, message);
}

}  // namespace qat
