// health MODE [SECONDS], started by mpirun: ten steps of 50 ms with a sum in each, watched for
// SECONDS (1 unless given). In step 5 something happens:
//   well       nothing
//   stop       rank 1 is stopped by a signal, as a machine that hangs
//   loop       rank 1 computes for ever
//   sleep      all ranks are stopped for three seconds, as a laptop that sleeps
//   save       rank 0 saves for three seconds while the others wait
//   jerk       rank 1 is stopped for half a second in every step
//   slow       rank 1 takes three times as long as the others from the start, over 25 steps
//   throw      rank 1 fails with 3
//   refuse     all ranks fail alike with 2
//   differ     every rank fails with its own words
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thread>

#include "engine/core/error.h"
#include "engine/dist/health.h"

namespace qat {
namespace {

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// A child wakes the process up again.
void stop_for(double seconds) {
  const pid_t self = getpid();
  if (fork() == 0) {
    sleep_for(seconds);
    kill(self, SIGCONT);
    _exit(0);
  }
  raise(SIGSTOP);
}

void happen(std::string_view mode, RunHealth& health, int64_t step) {
  const int rank = health.ranks().rank();
  if (mode == "jerk" && rank == 1) stop_for(0.5);
  if (step != 5) return;
  if (mode == "stop" && rank == 1) raise(SIGSTOP);
  if (mode == "loop" && rank == 1)
    for (;;) sleep_for(0.01);
  if (mode == "sleep") stop_for(3);
  if (mode == "save" && rank == 0) {
    health.at(step, RunStage::save);
    sleep_for(3);
  }
  if (mode == "throw" && rank == 1) throw Error(Exit::cannot_write, "the disk is full");
  if (mode == "refuse") refuse("recipe.yaml: line 3: no such key");
  if (mode == "differ") refuse("rank {} does not like it", rank);
}

int run(std::string_view mode, double seconds) {
  RunHealth health(open_communicator(), [](const std::string& why) {
    std::fprintf(stderr, "health: error: %s\n", why.c_str());
  });
  try {
    health.watch(seconds);
    const bool slow = mode == "slow";
    for (int64_t step = 1; step <= (slow ? 25 : 10); ++step) {
      const auto start = std::chrono::steady_clock::now();
      health.at(step, RunStage::step);
      sleep_for(slow && health.ranks().rank() == 1 ? 0.15 : 0.05);
      happen(mode, health, step);
      float one = 1;
      health.ranks().all_reduce({&one, 1});
      health.finish_step(
          step, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    if (health.ranks().rank() == 0) std::puts("done");
    return 0;
  } catch (const Error& error) {
    health.leave(int(error.code()), error.what());
  }
}

}  // namespace
}  // namespace qat

int main(int count, char** arguments) {
  return qat::run(count > 1 ? arguments[1] : "", count > 2 ? std::atof(arguments[2]) : 1.0);
}
