// Which communicator a process gets. MPI lives in libqat_mpi.so beside the command and is opened
// only where the environment tells of several ranks: one process runs, and starts, without it.
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "engine/core/error.h"
#include "engine/dist/checked.h"
#include "engine/dist/communicator.h"
#include "engine/dist/launch.h"
#include "engine/dist/mpi/module.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// Beside the command as it is built, or in lib beside its bin as it is installed.
std::string module_path() {
  std::error_code error;
  const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  const fs::path installed = folder.parent_path() / "lib" / kMpiModule;
  return fs::exists(folder / kMpiModule, error) || !fs::exists(installed, error)
             ? folder / kMpiModule
             : installed;
}

std::string ranks_of(const Launch& launch) {
  return launch.size > 0 ? fmt::format("{} ranks", launch.size) : "ranks";
}

OpenMpiCommunicator* open_module(const Launch& launch) {
  const std::string path = module_path();
  // Global, because the parts that MPI loads by itself look for its symbols there.
  void* module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!module)
    refuse(
        "{} started {}, but MPI cannot be opened ({}); run scripts/setup and scripts/build where "
        "Open MPI is to be found, or start one process without {}",
        launch.starter, ranks_of(launch), ::dlerror(), launch.starter);
  void* open = ::dlsym(module, kOpenMpiCommunicator);
  if (!open) refuse("{}: of another version than this command: {}", path, ::dlerror());
  return reinterpret_cast<OpenMpiCommunicator*>(open);
}

}  // namespace

std::unique_ptr<Communicator> open_communicator() {
  const Launch launch = read_launch([](const char* name) { return std::getenv(name); });
  if (launch.single()) return single_process();
  std::unique_ptr<Communicator> ranks(open_module(launch)(launch));
  const char* check = std::getenv("QAT_CHECK_COLLECTIVES");
  if (check && std::string_view(check) != "0") return checked(std::move(ranks));
  return ranks;
}

}  // namespace qat
