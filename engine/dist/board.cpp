#include "engine/dist/board.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <new>

#include "engine/core/error.h"

namespace qat {
namespace {

constexpr size_t kBytes = 4096;

// The same for all who can see each other's memory: one host name under one kernel.
std::string machine() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string boot;
  std::getline(in, boot);
  return name + (" " + boot);
}

std::string new_name() {
  std::array<uint64_t, 2> random{};
  if (getrandom(random.data(), sizeof random, 0) != ssize_t(sizeof random))
    random = {uint64_t(getpid()), 0};
  return fmt::format("/qat-{:016x}{:016x}", random[0], random[1]);
}

void* map(const std::string& name, int flags) {
  const int descriptor = shm_open(name.c_str(), flags | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0) return nullptr;
  void* memory = MAP_FAILED;
  if (!(flags & O_CREAT) || posix_fallocate(descriptor, 0, off_t(kBytes)) == 0)
    memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  return memory == MAP_FAILED ? nullptr : memory;
}

}  // namespace

const char* stage_name(RunStage stage) {
  switch (stage) {
    case RunStage::start:
      return "preparing";
    case RunStage::step:
      return "computing";
    case RunStage::save:
      return "saving";
    case RunStage::evaluate:
      return "evaluating";
    case RunStage::finish:
      return "finishing";
  }
  return "?";
}

const char* collective_name(Collective collective) {
  switch (collective) {
    case Collective::none:
      return "nothing";
    case Collective::all_reduce:
      return "all_reduce";
    case Collective::all_reduce_max:
      return "all_reduce_max";
    case Collective::reduce_scatter:
      return "reduce_scatter";
    case Collective::all_gather:
      return "all_gather";
    case Collective::broadcast:
      return "broadcast";
    case Collective::barrier:
      return "barrier";
  }
  return "?";
}

Board::Board(Communicator& ranks) {
  const std::string name = ranks.size() > 1 ? new_name() : "";
  void* memory = name.empty() ? nullptr : map(name, O_CREAT | O_EXCL);
  if (name.empty())
    memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory && memory != MAP_FAILED) new (memory) LifeSign;
  const std::string here = machine();
  const auto all = ranks.all_gather(memory && memory != MAP_FAILED ? here + "\n" + name : "");
  for (int r = 0; r < ranks.size(); ++r) {
    const std::string& text = all[size_t(r)];
    if (text.empty())
      throw Error(Exit::rank_failed,
                  fmt::format("rank {}: cannot have {} bytes of shared memory; give /dev/shm more "
                              "room there",
                              r, kBytes));
    if (r == ranks.rank())
      add(r, memory);
    else if (text.rfind(here + "\n", 0) == 0)
      if (void* other = map(text.substr(here.size() + 1), 0)) add(r, other);
    if (r == ranks.rank()) mine_ = int(signs_.size()) - 1;
  }
  ranks.barrier();
  if (!name.empty()) shm_unlink(name.c_str());
}

void Board::add(int rank, void* memory) {
  signs_.push_back(static_cast<LifeSign*>(memory));
  ranks_.push_back(rank);
}

Board::~Board() {
  for (LifeSign* sign : signs_) munmap(sign, kBytes);
}

}  // namespace qat
