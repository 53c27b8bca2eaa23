// save_checkpoints DIRECTORY FIRST COUNT SIZE [RANKS [stop]]: saves the steps FIRST, FIRST+10, ...
// with the tensors of the fixture, to be killed while it does. COUNT 0 starts and ends without
// saving. With RANKS the saves are those of so many ranks (threads), each beside training that
// changes the tensors as soon as it may; `stop`: it stops itself once its writing threads are
// there, in the order of the ranks.
#include <sys/prctl.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "engine/core/log.h"
#include "engine/train/run_lock.h"
#include "tests/faults/rank_tensors.h"
#include "tests/faults/step_tensors.h"
#include "tests/ranks/thread_ranks.h"

namespace {

int save_at_once(const char* directory, int64_t first, int64_t saves, int64_t size) {
  qat::CheckpointOptions options;
  options.run_id = qat::new_run_id();
  qat::CheckpointWriter writer(directory, options);
  for (int64_t i = 0; i < saves; ++i) {
    const int64_t step = first + 10 * i;
    const qat::StepTensors tensors(step, size);
    if (!writer.save(step, qat::step_state(step), tensors.list()).committed()) return 3;
  }
  return 0;
}

int save_beside_training(const char* directory, int64_t first, int64_t saves, int64_t size,
                         int ranks, bool stop) {
  const std::string run_id = qat::new_run_id();
  std::atomic<int> code = 0;
  qat::on_ranks(ranks, [&](qat::Communicator& mine) {
    qat::CheckpointOptions options;
    options.run_id = run_id;
    if (ranks > 1) options.ranks = &mine;
    qat::CheckpointWriter writer(directory, options);
    for (int rank = 0; rank < ranks; ++rank) {
      if (rank == mine.rank()) writer.reserve(own_tensors(qat::StepTensors(first, size), mine));
      mine.barrier();
    }
    if (stop && mine.rank() == 0) {
      prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);  // strace is no ancestor of this process
      raise(SIGSTOP);
    }
    mine.barrier();
    for (int64_t i = 0; i < saves; ++i) {
      const int64_t step = first + 10 * i;
      qat::StepTensors tensors(step, size);
      writer.begin(step, qat::step_state(step), own_tensors(tensors, mine));
      writer.wait_until_copied();
      for (float& weight : tensors.weights()) weight = -1.0f;
      if (!writer.finish().committed()) code = 3;
    }
  });
  return code;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 5 || count > 7) {
    std::fprintf(stderr, "usage: save_checkpoints DIRECTORY FIRST COUNT SIZE [RANKS [stop]]\n");
    return 2;
  }
  spdlog::set_level(spdlog::level::off);
  const int64_t first = std::atoll(arguments[2]), saves = std::atoll(arguments[3]);
  const int64_t size = std::atoll(arguments[4]);
  if (count == 5) return save_at_once(arguments[1], first, saves, size);
  return save_beside_training(arguments[1], first, saves, size, std::atoi(arguments[5]),
                              count == 7);
}
