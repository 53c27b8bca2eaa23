// save_checkpoints DIRECTORY FIRST COUNT SIZE: saves the steps FIRST, FIRST+10, ... with the
// tensors of the fixture, to be killed while it does. COUNT 0 starts and ends without saving.
#include <cstdio>
#include <cstdlib>

#include "engine/core/log.h"
#include "engine/train/run_lock.h"
#include "tests/faults/step_tensors.h"

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: save_checkpoints DIRECTORY FIRST COUNT SIZE\n");
    return 2;
  }
  spdlog::set_level(spdlog::level::off);
  const int64_t first = std::atoll(arguments[2]), saves = std::atoll(arguments[3]);
  const int64_t size = std::atoll(arguments[4]);
  qat::CheckpointOptions options;
  options.run_id = qat::new_run_id();
  qat::CheckpointWriter writer(arguments[1], options);
  for (int64_t i = 0; i < saves; ++i) {
    const int64_t step = first + 10 * i;
    const qat::StepTensors tensors(step, size);
    if (!writer.save(step, qat::step_state(step), tensors.list()).committed()) return 3;
  }
  return 0;
}
