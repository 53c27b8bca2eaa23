// Programs started as a job script would: alone, or by mpirun with several ranks.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace qat {

struct Ended {
  int code = -1;
  std::string output;  ///< stdout and stderr
};

/// Runs a command line of the shell, 120 s at most.
inline Ended shell(const std::string& command) {
  Ended ended;
  FILE* pipe = popen(("exec timeout -k 5 120 bash -c '" + command + "' 2>&1").c_str(), "r");
  if (!pipe) return ended;
  char text[4096];
  while (size_t count = std::fread(text, 1, sizeof text, pipe)) ended.output.append(text, count);
  const int status = pclose(pipe);
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ended;
}

/// A program of the build, by its path.
inline std::string program(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / name;
}

inline bool has_mpirun() {
  return shell("command -v mpirun").code == 0 && std::filesystem::exists(program("libqat_mpi.so"));
}

/// `environment` is "NAME=value NAME=value".
inline Ended with_ranks(int ranks, const std::string& command,
                        const std::string& environment = "") {
  return shell(environment +
               " OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
               " OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo"
               " mpirun --oversubscribe -n " +
               std::to_string(ranks) + " " + command);
}

#define QAT_NEEDS_MPIRUN() \
  if (!has_mpirun()) GTEST_SKIP() << "mpirun or libqat_mpi.so is missing: scripts/setup brings it"

}  // namespace qat
