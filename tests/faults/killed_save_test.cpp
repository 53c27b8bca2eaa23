// A1, A2: a process killed while it saves, at random moments and at each system call of a save.
// What a start then finds is the step before or the step itself, whole, never a mixture.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "engine/train/run_lock.h"
#include "tests/faults/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

constexpr int64_t kSize = 1'200'000;  // floats: one large write, and small ones gathered

std::string program() {
  return fs::read_symlink("/proc/self/exe").parent_path() / "save_checkpoints";
}

pid_t start(const Arguments& arguments) {
  const pid_t child = fork();
  if (child != 0) return child;
  setpgid(0, 0);
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // the leak search does not work under strace
  const int null = open("/dev/null", O_RDWR);
  for (int descriptor : {0, 1, 2}) dup2(null, descriptor);
  std::vector<char*> pointers;
  for (const std::string& argument : arguments)
    pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  execvp(pointers[0], pointers.data());
  _exit(127);
}

int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

bool ended_well(int status) {
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

class KilledSave : public CheckpointFixture {
 protected:
  KilledSave() {
    CheckpointWriter writer(directory_, options());
    for (int64_t step : {10, 20}) save(writer, step, kSize);
  }
  Arguments saving(int64_t first, int64_t count, const Arguments& more = {}) const {
    Arguments arguments = {program(), directory_, std::to_string(first), std::to_string(count),
                           std::to_string(kSize)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  /// The newest checkpoint, after a look that all is as it must be after any kill.
  int64_t survivor() const {
    const FoundCheckpoint found = find_checkpoint(directory_);
    if (!found.checkpoint) return -1;
    EXPECT_TRUE(is_of_one_step(*found.checkpoint, kSize));
    EXPECT_TRUE(found.skipped.empty()) << found.skipped[0].reason;
    int whole = 0;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      if (entry.path().extension() != "" || !fs::exists(entry.path() / "manifest.json")) continue;
      EXPECT_NO_THROW(Checkpoint::load(entry.path()));
      ++whole;
    }
    EXPECT_GE(whole, 2) << "at least two whole ones stay";
    return found.checkpoint->step();
  }
  size_t directories() const { return names().size(); }

  struct Kills {
    int64_t newest = 20;  ///< the newest whole step
    int count = 0;
    std::set<std::string> at;  ///< the calls
  };
  /// Saves the next step again and again, each time killed at its k-th such call, from `first` on,
  /// until one ends well. killed_at(k): whether that save was killed.
  void kill_at_each(const std::string& call, int first, Kills& kills,
                    const std::function<bool(int)>& killed_at) const {
    for (int k = first;; ++k) {
      SCOPED_TRACE(call + " " + std::to_string(k));
      const bool killed = killed_at(k);
      const int64_t found = survivor();
      ASSERT_TRUE(found == kills.newest || found == kills.newest + 10)
          << found << " after " << kills.newest;
      kills.newest = found;
      if (HasFailure()) return;
      if (!killed) {
        ASSERT_EQ(directories(), 2u) << "what the kills left is removed by the save that passes";
        return;
      }
      ++kills.count;
      kills.at.insert(call);
    }
  }
};
class fault_A2 : public KilledSave {};

class fault_A1 : public KilledSave, public testing::WithParamInterface<Arguments> {};

INSTANTIATE_TEST_SUITE_P(Ways, fault_A1,
                         testing::Values(Arguments{}, Arguments{"1"}, Arguments{"2"}),
                         [](const auto& info) {
                           return info.param.empty() ? "AtOnce"
                                                     : "BesideTrainingRanks" + info.param[0];
                         });

TEST_P(fault_A1, KilledAtRandomMoments) {
  // How long one save takes here, so that the kills fall anywhere in the first few.
  const auto before = std::chrono::steady_clock::now();
  ASSERT_TRUE(ended_well(wait_for(start(saving(30, 1, GetParam())))));
  const std::chrono::duration<double> one_save = std::chrono::steady_clock::now() - before;
  std::mt19937 random(11);
  std::uniform_real_distribution<double> moment(0, 3);
  int64_t newest = 30;
  int moved = 0;
  for (int round = 0; round < 40 || (moved < 5 && round < 200); ++round) {
    const pid_t child = start(saving(newest + 10, 1000, GetParam()));
    std::this_thread::sleep_for(moment(random) * one_save);
    kill(child, SIGKILL);
    const int status = wait_for(child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "it saves until it is killed";
    const int64_t found = survivor();
    ASSERT_GE(found, newest) << "round " << round;
    ASSERT_EQ(found % 10, 0);
    moved += found > newest;
    newest = found;
  }
  EXPECT_GE(moved, 5) << "the kills must fall into saves";
  ASSERT_TRUE(ended_well(wait_for(start(saving(newest + 10, 1, GetParam())))));
  EXPECT_EQ(directories(), 2u) << "leftovers are removed";
}

class Strace {
 public:
  static constexpr const char* kCalls =
      "openat,write,writev,pwrite64,ftruncate,fsync,fdatasync,mkdir,rename,renameat,renameat2,"
      "unlink,"
      "unlinkat,close";

  static bool works() { return ended_well(wait_for(start({"strace", "-o", "/dev/null", "true"}))); }

  /// How often a command makes each call.
  static std::map<std::string, int> count(const Arguments& command, const std::string& log) {
    Arguments traced = {"strace", "-f", "-e", std::string("trace=") + kCalls, "-o", log};
    traced.insert(traced.end(), command.begin(), command.end());
    EXPECT_TRUE(ended_well(wait_for(start(traced))));
    std::map<std::string, int> calls;
    std::ifstream in(log);
    for (std::string line; std::getline(in, line);) {
      std::istringstream words(line);
      std::string process, call;
      words >> process >> call;
      const size_t parenthesis = call.find('(');
      if (parenthesis != std::string::npos) ++calls[call.substr(0, parenthesis)];
    }
    return calls;
  }

  /// True if the command was killed at its k-th such call; false if it ended well before.
  static bool kill_at(const Arguments& command, const std::string& call, int k) {
    Arguments traced = {"strace", "-f",
                        "-e",     "trace=" + call,
                        "-e",     "inject=" + call + ":signal=KILL:when=" + std::to_string(k),
                        "-o",     "/dev/null"};
    traced.insert(traced.end(), command.begin(), command.end());
    const int status = wait_for(start(traced));
    if (ended_well(status)) return false;
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    return true;
  }

  /// Lets a command that stops itself go on, with its writing thread of this rank killed at the
  /// k-th such call that this thread makes. True if it was; false if the command ended well before.
  static bool kill_thread_at(const Arguments& command, int rank, const std::string& call, int k) {
    const pid_t child = start(command);
    int status = 0;
    waitpid(child, &status, WUNTRACED);
    EXPECT_TRUE(WIFSTOPPED(status)) << status;
    const std::string thread = writing_thread(child, rank);
    const pid_t tracer =
        start({"strace", "-p", thread, "-e", "trace=" + call, "-e",
               "inject=" + call + ":signal=KILL:when=" + std::to_string(k), "-o", "/dev/null"});
    while (!is_traced(child, thread) && waitpid(tracer, &status, WNOHANG) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(child, SIGCONT);
    status = wait_for(child);
    wait_for(tracer);
    if (ended_well(status)) return false;
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    return true;
  }

 private:
  static std::string writing_thread(pid_t process, int rank) {
    std::set<int> found;  // made one after the other
    for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
      std::string name;
      std::ifstream(task.path() / "comm") >> name;
      if (name == "qat-background") found.insert(std::stoi(task.path().filename()));
    }
    EXPECT_GT(int(found.size()), rank);
    return found.empty() ? "0" : std::to_string(*std::next(found.begin(), rank));
  }
  static bool is_traced(pid_t process, const std::string& thread) {
    std::ifstream in("/proc/" + std::to_string(process) + "/task/" + thread + "/status");
    for (std::string line; std::getline(in, line);)
      if (line.starts_with("TracerPid:")) return line.find_first_of("123456789") != line.npos;
    return false;
  }
};

TEST_F(fault_A2, KilledAtEachSystemCallOfASave) {
  if (!Strace::works()) GTEST_SKIP() << "strace is not installed or may not trace here";
  const std::string log = folder_ / "strace.log";
  const auto without = Strace::count(saving(0, 0), log);
  Kills kills;
  std::istringstream calls(Strace::kCalls);
  for (std::string call; std::getline(calls, call, ',');) {
    const auto before = without.find(call);
    // From the last call of the bare start on: the saves that follow differ by what they clean up.
    kill_at_each(call, before == without.end() ? 1 : before->second, kills,
                 [&](int k) { return Strace::kill_at(saving(kills.newest + 10, 1), call, k); });
    if (HasFailure()) return;
  }
  EXPECT_GT(kills.count, 30);
  for (const char* call : {"openat", "write", "fsync", "mkdir", "unlinkat", "close"})
    EXPECT_TRUE(kills.at.contains(call)) << call;
  EXPECT_TRUE(kills.at.contains("rename") || kills.at.contains("renameat") ||
              kills.at.contains("renameat2"));
  std::printf("killed at %d system calls\n", kills.count);
}

class fault_A2_besideTraining : public KilledSave, public testing::WithParamInterface<int> {};

INSTANTIATE_TEST_SUITE_P(Ranks, fault_A2_besideTraining, testing::Values(1, 2),
                         testing::PrintToStringParamName());

// Every call is made by a rank's writing thread: the one that trains makes none.
TEST_P(fault_A2_besideTraining, KilledAtEachSystemCallOfEachRanksThread) {
  if (!Strace::works()) GTEST_SKIP() << "strace is not installed or may not trace here";
  const int ranks = GetParam();
  int64_t newest = 20;
  for (int rank = 0; rank < ranks; ++rank) {
    Kills kills;
    kills.newest = newest;
    std::istringstream calls(Strace::kCalls);
    for (std::string call; std::getline(calls, call, ',');) {
      SCOPED_TRACE("rank " + std::to_string(rank));
      kill_at_each(call, 1, kills, [&](int k) {
        return Strace::kill_thread_at(saving(kills.newest + 10, 1, {std::to_string(ranks), "stop"}),
                                      rank, call, k);
      });
      if (HasFailure()) return;
    }
    for (const char* call : {"openat", "write", "fsync", "close"})
      EXPECT_TRUE(kills.at.contains(call)) << call;
    if (rank == 0) {
      for (const char* call : {"mkdir", "rename", "unlinkat"})
        EXPECT_TRUE(kills.at.contains(call)) << call;
      EXPECT_GT(kills.count, 30);
    }
    newest = kills.newest;
    std::printf("rank %d of %d: killed at %d system calls\n", rank, ranks, kills.count);
  }
}

}  // namespace
}  // namespace qat
