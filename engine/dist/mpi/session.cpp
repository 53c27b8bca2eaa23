#include "engine/dist/mpi/session.h"

#include <sched.h>

#include <algorithm>
#include <exception>
#include <vector>

#include "engine/core/error.h"

namespace qat {
namespace {

// What Open MPI would find out by ending the process with 1 in MPI_Init.
void require_reachable(const Launch& launch) {
#ifdef OPEN_MPI
  if (launch.has_pmix) return;
  if (launch.starter == "srun")
    refuse(
        "srun started {} tasks without PMIx, by which Open MPI finds the others; use srun "
        "--mpi=pmix",
        launch.size);
  refuse(
      "the mpirun that started {} ranks is not that of Open MPI, which this build speaks; use "
      "Open MPI's mpirun or srun --mpi=pmix, or build with the other MPI",
      launch.size);
#else
  (void)launch;
#endif
}

std::vector<char> allowed_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<char> allowed(CPU_SETSIZE, 0);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return allowed;
  for (int p = 0; p < CPU_SETSIZE; ++p) allowed[size_t(p)] = CPU_ISSET(p, &set) ? 1 : 0;
  return allowed;
}

double share_of_processors(MPI_Comm node) {
  const std::vector<char> mine = allowed_processors();
  std::vector<int> ranks(mine.begin(), mine.end());
  require(MPI_Allreduce(MPI_IN_PLACE, ranks.data(), int(ranks.size()), MPI_INT, MPI_SUM, node),
          "MPI_Allreduce");
  double share = 0;
  for (size_t p = 0; p < mine.size(); ++p)
    if (mine[p]) share += 1.0 / ranks[p];
  return share;
}

}  // namespace

void require(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(Exit::rank_failed, fmt::format("{}: {}", call, text));
}

MpiSession::MpiSession(const Launch& launch) {
  require_reachable(launch);
  int provided = 0;
  require(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  if (launch.size > 0 && launch.size != size_) {
    if (size_ == 1) MPI_Finalize();
    refuse(
        "{} started {} ranks but MPI counts {}: they would be runs of their own in one "
        "directory; use the mpirun of the MPI this was built with, or srun --mpi=pmix, and start "
        "one process without either",
        launch.starter, launch.size, size_);
  }
  require(MPI_Comm_dup(MPI_COMM_WORLD, &world_), "MPI_Comm_dup");
  MPI_Comm_rank(world_, &rank_);
  require(MPI_Comm_split_type(world_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node_),
          "MPI_Comm_split_type");
  MPI_Comm_rank(node_, &local_rank_);
  MPI_Comm_size(node_, &local_size_);
  nodes_ = local_rank_ == 0 ? 1 : 0;
  require(MPI_Allreduce(MPI_IN_PLACE, &nodes_, 1, MPI_INT, MPI_SUM, world_), "MPI_Allreduce");
  constexpr double kRounding = 1e-6;
  const double share = share_of_processors(node_) + kRounding;
  processors_ = std::max(1, int(share));
  crowded_ = share < 1;
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > 0) return;
  MPI_Comm_free(&node_);
  MPI_Comm_free(&world_);
  MPI_Finalize();
}

std::string MpiSession::library() const {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string name(text, size_t(length));
  name = name.substr(0, name.find_first_of(",\n"));
  if (const size_t v = name.find(" v"); v != std::string::npos) name.erase(v + 1, 1);
  return name;
}

}  // namespace qat
