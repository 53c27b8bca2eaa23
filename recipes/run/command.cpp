// run_command and write_output.
#include "recipes/run/command.h"

#include <fcntl.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <system_error>

#include "engine/core/version.h"
#include "kernels/backend.h"

namespace qat {
namespace {

struct OutputClosed {};

/// How a command ends; without a message it has nothing to say.
struct Outcome {
  int code = 0;
  std::string message;
};

void report(const std::string& command, std::string message) {
  // One line, and no control character of a hostile file on somebody's terminal.
  std::replace_if(
      message.begin(), message.end(),
      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, ' ');
  const std::string line = command + ": error: " + message + "\n";
  // Nothing is left to do when stderr is closed too.
  std::fwrite(line.data(), 1, line.size(), stderr);
}

Outcome outcome_of(const std::function<Exit()>& work) {
  try {
    return {int(work()), ""};
  } catch (const OutputClosed&) {
    return {};
  } catch (const Error& error) {
    return {int(error.code()), error.what()};
  } catch (const DeviceError& error) {
    return {int(Exit::rank_failed), error.what()};
  } catch (const std::bad_alloc&) {
    return {int(Exit::refused), "out of memory"};
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::resource_unavailable_try_again)
      return {int(Exit::internal), error.what()};
    return {
        int(Exit::refused),
        "no thread could be started: out of memory, or at the limit of processes (ulimit -v, -u)"};
  } catch (const std::exception& error) {
    return {int(Exit::internal), error.what()};
  }
}

// A descriptor that was closed would be the next file's that is opened, and the log would be
// written into that.
void open_standard_descriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF)
      (void)::open("/dev/null", descriptor == STDIN_FILENO ? O_RDONLY : O_WRONLY);
}

// Threads that wait for others spin, by OpenMP's default for milliseconds: on a machine that has
// other work they take the cores from those they wait for, and a step takes ten to a hundred times
// as long. Sleeping at once costs on a quiet machine, so they spin for about as long as it takes to
// wake up. libgomp reads this once, when it is loaded: the command replaces itself with itself, the
// same process with the same arguments. Where that cannot be done it goes on as it is.
void restart_with_short_spins(char** argv) {
  constexpr const char* kSpins = "1000";
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;
  char self[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (length <= 0) return;
  self[length] = '\0';
  ::setenv("GOMP_SPINCOUNT", kSpins, 1);
  ::execv(self, argv);
}

// Results go to stdout, the log to stderr, so that a pipe gets only results.
void set_up_log(const std::string& name) {
  auto logger = spdlog::stderr_color_mt(name);
  logger->set_pattern("%^%v%$");
  const char* level = std::getenv("QAT_LOG");
  logger->set_level(level ? spdlog::level::from_str(level) : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

// What the command line itself ends the command with, if it does.
std::optional<Outcome> parse(CLI::App& app, int argc, char** argv) {
  app.set_version_flag("--version", app.get_name() + " " + kVersion);
  bool parsed = false;
  const Outcome outcome = outcome_of([&] {
    try {
      app.parse(argc, argv);
      parsed = true;
    } catch (const CLI::CallForHelp&) {
      write_output(app.help());
    } catch (const CLI::CallForVersion& version) {
      write_output(std::string(version.what()) + "\n");
    } catch (const CLI::ParseError& error) {
      refuse("{} (see {} --help)", error.what(), app.get_name());
    }
    return Exit::ok;
  });
  if (parsed) return std::nullopt;
  return outcome;
}

int finish(const std::string& command, const Outcome& outcome) {
  if (!outcome.message.empty()) report(command, outcome.message);
  return outcome.code;
}

}  // namespace

int run_command(CLI::App& app, int argc, char** argv, const std::function<Exit()>& body) {
  const std::string name = app.get_name();
  std::signal(SIGPIPE, SIG_IGN);
  open_standard_descriptors();
  if (const auto ended = parse(app, argc, argv)) return finish(name, *ended);
  restart_with_short_spins(argv);
  set_up_log(name);
  return finish(name, outcome_of(body));
}

int run_command_among_ranks(CLI::App& app, int argc, char** argv,
                            const std::function<Exit(RunHealth&)>& body) {
  const std::string name = app.get_name();
  std::signal(SIGPIPE, SIG_IGN);
  open_standard_descriptors();
  const auto ended = parse(app, argc, argv);
  if (ended && ended->message.empty()) return ended->code;
  restart_with_short_spins(argv);
  set_up_log(name);
  std::optional<RunHealth> health;
  const Outcome opened = outcome_of([&] {
    health.emplace(open_communicator(), [name](const std::string& why) { report(name, why); });
    return Exit::ok;
  });
  if (!health) return finish(name, opened);
  bool whole = false;
  const Outcome outcome = ended ? *ended : outcome_of([&] {
    const Exit exit = body(*health);
    whole = true;
    return exit;
  });
  if (!whole && health->ranks().size() > 1) health->leave(outcome.code, outcome.message);
  return finish(name, outcome);
}

void write_output(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      if (errno == EPIPE) throw OutputClosed{};
      throw Error(Exit::cannot_write,
                  std::string("cannot write to standard output: ") + std::strerror(errno));
    }
    text.remove_prefix(size_t(written));
  }
}

}  // namespace qat
