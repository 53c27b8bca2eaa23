#include "engine/dist/launch.h"

#include <charconv>
#include <cstring>
#include <optional>

#include "engine/core/error.h"

namespace qat {
namespace {

std::optional<int> number(const Environment& environment, const char* name, int least) {
  const char* text = environment(name);
  if (!text) return std::nullopt;
  int value = 0;
  const char* last = text + std::strlen(text);
  const auto read = std::from_chars(text, last, value);
  if (read.ec != std::errc() || read.ptr != last || value < least)
    refuse("environment: {}: expected a number from {} on, got \"{}\"; start with mpirun or srun",
           name, least, text);
  return value;
}

}  // namespace

Launch read_launch(const Environment& environment) {
  Launch launch;
  launch.has_pmix = environment("PMIX_RANK") != nullptr && environment("PMIX_NAMESPACE") != nullptr;
  struct Variables {
    const char *size, *rank, *starter;
  };
  // In this order: mpirun starts its daemons with srun, whose variables its processes then inherit.
  static constexpr Variables kStarters[] = {
      {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"},
      {"PMI_SIZE", "PMI_RANK", "mpirun"},
      {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"},
  };
  for (const Variables& variables : kStarters) {
    const auto size = number(environment, variables.size, 1);
    if (!size) continue;
    launch.size = *size;
    launch.rank = number(environment, variables.rank, 0).value_or(-1);
    launch.starter = environment("SLURM_STEP_NUM_TASKS") ? "srun" : variables.starter;
    if (std::strcmp(variables.size, "OMPI_COMM_WORLD_SIZE") == 0) launch.starter = "mpirun";
    return launch;
  }
  if (launch.has_pmix)
    launch = {.size = 0, .rank = -1, .starter = "a PMIx launcher", .has_pmix = true};
  return launch;
}

}  // namespace qat
