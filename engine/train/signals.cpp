// The stop flag. A signal handler can reach nothing but globals: these two are the only ones here.
#include "engine/train/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace qat {
namespace {

std::atomic<int> first_signal{0};
std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free, "a handler may only use lock-free atomics");

void note_signal(int signal) {
  if (signal == SIGINT && interrupts.fetch_add(1) > 0) _exit(128 + SIGINT);
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
}

}  // namespace

void catch_stop_signals() {
  static constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
  catch_stop_signals(kSignals);
}

void catch_stop_signals(std::span<const int> signals) {
  struct sigaction action {};
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  action.sa_handler = note_signal;
  for (int signal : signals) sigaction(signal, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  sigaction(SIGXFSZ, &action, nullptr);
}

int stop_signal() {
  return first_signal.load();
}

const char* signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    case SIGHUP:
      return "SIGHUP";
    default:
      return "a signal";
  }
}

void reset_stop_signal() {
  first_signal = 0;
  interrupts = 0;
}

}  // namespace qat
