// The lock of an output directory; see the header.
#include "engine/train/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <ctime>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <thread>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/atomic_file.h"

namespace qat {
namespace {

using nlohmann::json;

/// Who holds a lock. Empty strings and 0 stand for what this machine does not tell.
struct Owner {
  std::string run_id, host, boot_id, pid_namespace, started;
  int64_t pid = 0;
  std::string start_time;  ///< of the process, in clock ticks since boot: no clock jump changes it
  friend bool operator==(const Owner&, const Owner&) = default;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Owner, run_id, host, boot_id, pid_namespace, started, pid,
                                   start_time)

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string pid_namespace() {
  char target[64] = "";
  const ssize_t length = readlink("/proc/self/ns/pid", target, sizeof target - 1);
  return length > 0 ? std::string(target, size_t(length)) : "";
}

/// State letter and start time of a process from /proc/PID/stat (fields 3 and 22); nothing if there
/// is no such process.
std::optional<std::pair<char, std::string>> process_state(int64_t pid) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", pid));
  const size_t name_end = line.rfind(')');  // the name may hold spaces and parentheses
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  std::string state, field;
  fields >> state;
  for (int number = 4; number <= 22; ++number) fields >> field;
  if (!fields || state.empty()) return std::nullopt;
  return std::pair(state[0], field);
}

std::string utc_now(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, format, &parts));
}

Owner myself(const std::string& run_id) {
  Owner me;
  me.run_id = run_id;
  me.host = host_name();
  me.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  me.pid_namespace = pid_namespace();
  me.started = utc_now("%Y-%m-%d %H:%M:%S UTC");
  me.pid = getpid();
  if (const auto state = process_state(me.pid)) me.start_time = state->second;
  return me;
}

std::optional<Owner> read_owner(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  const json parsed = json::parse(text.str(), nullptr, false);
  try {
    return parsed.get<Owner>();
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

enum class Life { dead, alive, unknown };

Life life_of(const Owner& owner, const Owner& me) {
  if (owner.boot_id.empty() || owner.boot_id != me.boot_id)
    // The same machine after a reboot: nothing of before lives.
    return !owner.boot_id.empty() && !me.boot_id.empty() && owner.host == me.host ? Life::dead
                                                                                  : Life::unknown;
  if (owner.pid_namespace != me.pid_namespace) return Life::unknown;
  const auto state = process_state(owner.pid);
  if (!state || state->first == 'Z' || state->first == 'X') return Life::dead;
  return state->second == owner.start_time ? Life::alive : Life::dead;
}

std::string describe(const Owner& owner) {
  return fmt::format("process {} on {} (run {}, started {})", owner.pid, owner.host, owner.run_id,
                     owner.started);
}

[[noreturn]] void refuse_locked(const std::string& directory, const std::string& owner) {
  throw Error(Exit::locked,
              fmt::format("{}: another run holds this output directory: {}. Wait for it, stop it, "
                          "or give this run another `out`",
                          directory, owner));
}

struct timespec modified(const std::string& path) {
  struct stat status {};
  stat(path.c_str(), &status);
  return status.st_mtim;
}

/// Watches the lock of an owner on another machine; true once its heartbeat shows.
bool heartbeat_shows(const std::string& path, const Owner& owner, const RunLockOptions& options) {
  log::info("{}: held by {}; waiting up to {} s for a sign of life", path, describe(owner),
            options.patience.count() / 1000);
  const auto end = std::chrono::steady_clock::now() + options.patience;
  const struct timespec before = modified(path);
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(options.heartbeat / 2);
    const struct timespec now = modified(path);
    if (now.tv_sec != before.tv_sec || now.tv_nsec != before.tv_nsec) return true;
  }
  return false;
}

}  // namespace

std::string new_run_id() {
  uint32_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random) random = uint32_t(getpid());
  return fmt::format("{}-{:08x}", utc_now("%Y%m%d-%H%M%S"), random);
}

struct RunLock::Held {
  std::string directory, path;
  Owner me;
  int descriptor = -1;
  std::mutex mutex;
  std::condition_variable stop;
  bool stopping = false;
  std::thread heart;

  ~Held() {
    if (heart.joinable()) {
      {
        std::lock_guard guard(mutex);
        stopping = true;
      }
      stop.notify_all();
      heart.join();
    }
    if (descriptor >= 0) close(descriptor);
  }

  /// Opens the file and takes its flock; again if the owner removed the file in between.
  void open_and_flock() {
    for (;;) {
      descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
      if (descriptor < 0) cannot_write("open the lock", path, errno);
      if (flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        const auto owner = read_owner(path);
        refuse_locked(directory, owner ? describe(*owner) : "a process that just started");
      }
      // A file system without flock leaves the owner's record and the heartbeat to decide.
      struct stat mine {
      }, named{};
      if (fstat(descriptor, &mine) == 0 && stat(path.c_str(), &named) == 0 &&
          mine.st_ino == named.st_ino && mine.st_dev == named.st_dev)
        return;
      close(std::exchange(descriptor, -1));
    }
  }

  void write_owner() {
    const std::string text = json(me).dump() + "\n";
    if (ftruncate(descriptor, 0) != 0 ||
        pwrite(descriptor, text.data(), text.size(), 0) != ssize_t(text.size()) ||
        fsync(descriptor) != 0)
      cannot_write("write the lock", path, errno);
  }

  void beat(std::chrono::milliseconds every) {
    std::unique_lock guard(mutex);
    while (!stop.wait_for(guard, every, [this] { return stopping; })) futimens(descriptor, nullptr);
  }
};

RunLock::RunLock(const std::string& directory, const std::string& run_id, RunLockOptions options)
    : held_(std::make_unique<Held>()) {
  held_->directory = directory;
  held_->path = directory + "/run.lock";
  held_->me = myself(run_id);
  held_->open_and_flock();
  struct stat status {};
  fstat(held_->descriptor, &status);
  if (status.st_size > 0) {
    const auto owner = read_owner(held_->path);
    const Life life = owner ? life_of(*owner, held_->me) : Life::dead;
    const bool alive = life == Life::alive ||
                       (life == Life::unknown && heartbeat_shows(held_->path, *owner, options));
    if (alive) refuse_locked(directory, describe(*owner));
    if (owner != read_owner(held_->path)) refuse_locked(directory, "a run that started meanwhile");
    log::warn("{}: its owner is gone ({}); taken over", held_->path,
              owner ? describe(*owner) : "the file does not name one");
  }
  held_->write_owner();

  // Signals are the main thread's: this one must never run their handlers.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  held_->heart = std::thread([held = held_.get(), options] { held->beat(options.heartbeat); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

RunLock::~RunLock() {
  // Removed only while still ours, and before the flock goes with the descriptor.
  if (const auto owner = read_owner(held_->path); owner == held_->me) unlink(held_->path.c_str());
}

void RunLock::require_held() const {
  const auto owner = read_owner(held_->path);
  if (owner == held_->me) return;
  throw Error(Exit::locked,
              fmt::format("{}: this run was taken for dead and {} holds the output directory now; "
                          "nothing more is written",
                          held_->path, owner ? describe(*owner) : "nobody"));
}

}  // namespace qat
