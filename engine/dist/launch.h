// What the environment says of the ranks a process was started among. mpirun, srun and their like
// tell each process its rank and how many there are before MPI is opened.
#pragma once

#include <functional>
#include <string>

namespace qat {

/// The value of an environment variable, or null.
using Environment = std::function<const char*(const char*)>;

struct Launch {
  int size = 1;         ///< 0: several, of which only MPI knows how many
  int rank = 0;         ///< -1: MPI knows
  std::string starter;  ///< "mpirun", "srun"; empty: nobody
  /// The connection that Open MPI needs to the one who started it is there.
  bool has_pmix = false;

  bool single() const { return size == 1; }
};

/// Reads OMPI_COMM_WORLD_SIZE (Open MPI's mpirun), PMI_SIZE (other MPIs' mpirun, srun --mpi=pmi2),
/// SLURM_STEP_NUM_TASKS (a task of srun; SLURM_NTASKS alone is what a batch script was given, which
/// is one process) and PMIX_RANK. Throws Error(refused) naming a variable that holds no number.
Launch read_launch(const Environment& environment);

}  // namespace qat
