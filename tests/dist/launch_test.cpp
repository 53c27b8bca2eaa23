// C11: N independent runs in one directory must never happen, and one process needs no MPI.
#include "engine/dist/launch.h"

#include <unistd.h>

#include <map>

#include "engine/core/error.h"
#include "engine/dist/communicator.h"
#include "tests/dist/ranks.h"

namespace qat {
namespace {

using Variables = std::map<std::string, std::string>;

Launch launch_of(const Variables& variables) {
  return read_launch([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

class fault_C11 : public testing::Test {};

TEST_F(fault_C11, ReadsWhoStartedIt) {
  EXPECT_TRUE(launch_of({}).single());
  const Launch mpirun = launch_of({{"OMPI_COMM_WORLD_SIZE", "4"},
                                   {"OMPI_COMM_WORLD_RANK", "3"},
                                   {"PMIX_RANK", "3"},
                                   {"PMIX_NAMESPACE", "job"},
                                   // The daemon of mpirun on another node is a task of srun.
                                   {"SLURM_STEP_NUM_TASKS", "2"},
                                   {"SLURM_PROCID", "1"}});
  EXPECT_EQ(mpirun.size, 4);
  EXPECT_EQ(mpirun.rank, 3);
  EXPECT_EQ(mpirun.starter, "mpirun");
  EXPECT_TRUE(mpirun.has_pmix);
  const Launch srun = launch_of({{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", "1"}});
  EXPECT_EQ(srun.size, 2);
  EXPECT_EQ(srun.rank, 1);
  EXPECT_EQ(srun.starter, "srun");
  const Launch unknown = launch_of({{"PMIX_RANK", "0"}, {"PMIX_NAMESPACE", "job"}});
  EXPECT_EQ(unknown.size, 0) << "only MPI knows";
  EXPECT_FALSE(unknown.single());
}

TEST_F(fault_C11, TakesABatchScriptForOneProcess) {
  EXPECT_TRUE(
      launch_of({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}).single());
}

TEST_F(fault_C11, RefusesWhatIsNoNumber) {
  for (const char* size : {"", "0", "-1", "two", "2x"})
    EXPECT_THROW(launch_of({{"OMPI_COMM_WORLD_SIZE", size}}), Error) << size;
}

TEST_F(fault_C11, OneProcessNeedsNoMpi) {
  const auto ranks = open_communicator();
  EXPECT_EQ(ranks->size(), 1);
  EXPECT_EQ(ranks->describe(), "single process");
  EXPECT_EQ(default_threads(*ranks), 0);
}

/// A copy of the program in a folder without libqat_mpi.so.
std::string lonely_program() {
  const std::string folder = testing::TempDir() + "qat_lonely_" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(program("collectives"), folder + "/collectives",
                             std::filesystem::copy_options::overwrite_existing);
  return folder + "/collectives";
}

TEST_F(fault_C11, MissingMpiLibraryIsRefused) {
  const std::string lonely = lonely_program();
  EXPECT_EQ(shell(lonely + " check").code, 0) << "one process runs";
  const Ended ended = shell("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 " + lonely + " print");
  std::filesystem::remove_all(std::filesystem::path(lonely).parent_path());
  EXPECT_EQ(ended.code, 2) << ended.output;
  EXPECT_NE(ended.output.find("mpirun started 2 ranks, but MPI cannot be opened"),
            std::string::npos)
      << ended.output;
}

TEST_F(fault_C11, TasksOfSrunWithoutPmixAreRefused) {
  QAT_NEEDS_MPIRUN();
  const Ended ended =
      shell("SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0 " + program("collectives") + " print");
  EXPECT_EQ(ended.code, 2) << ended.output;
  EXPECT_NE(ended.output.find("use srun --mpi=pmix"), std::string::npos) << ended.output;
}

TEST_F(fault_C11, AnotherMpisStarterIsRefused) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = shell("PMI_SIZE=2 PMI_RANK=1 " + program("collectives") + " print");
  EXPECT_EQ(ended.code, 2) << ended.output;
  EXPECT_NE(ended.output.find("not that of Open MPI"), std::string::npos) << ended.output;
}

TEST_F(fault_C11, AnotherCountThanMpisIsRefused) {
  QAT_NEEDS_MPIRUN();
  const Ended more =
      with_ranks(1, "env OMPI_COMM_WORLD_SIZE=2 " + program("collectives") + " print");
  EXPECT_EQ(more.code, 2) << more.output;
  EXPECT_NE(more.output.find("started 2 ranks but MPI counts 1"), std::string::npos) << more.output;
}

TEST_F(fault_C11, UnknownTransportIsRefused) {
  QAT_NEEDS_MPIRUN();
  const Ended ended = with_ranks(2, program("collectives") + " print", "QAT_MPI_TRANSPORT=pigeon");
  EXPECT_EQ(ended.code, 2) << ended.output;
}

}  // namespace
}  // namespace qat
