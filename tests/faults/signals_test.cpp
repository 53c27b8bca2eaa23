// A3: signals only set a flag; a second SIGINT leaves at once; a closed pipe is an error code.
#include "engine/train/signals.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <functional>

namespace qat {
namespace {

/// Runs in a process of its own; its wait status.
int status_of(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST(fault_A3, EachSignalSetsTheFlagAndTheFirstIsKept) {
  for (int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) {
    const int status = status_of([signal] {
      catch_stop_signals();
      if (stop_signal() != 0) return 1;
      raise(signal);
      if (stop_signal() != signal) return 2;
      raise(signal == SIGTERM ? SIGUSR1 : SIGTERM);
      if (stop_signal() != signal) return 3;
      reset_stop_signal();
      if (stop_signal() != 0) return 4;
      raise(signal);
      return stop_signal() == signal ? 85 : 5;
    });
    ASSERT_TRUE(WIFEXITED(status)) << signal_name(signal);
    EXPECT_EQ(WEXITSTATUS(status), 85) << signal_name(signal);
  }
}

TEST(fault_A3, TwiceTheSameSignalChangesNothing) {
  for (int signal : {SIGTERM, SIGUSR1, SIGUSR2}) {
    const int status = status_of([signal] {
      catch_stop_signals();
      for (int i = 0; i < 5; ++i) raise(signal);
      return stop_signal() == signal ? 85 : 1;
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 85) << signal_name(signal);
  }
}

TEST(fault_A3, TheSecondInterruptLeavesAtOnce) {
  const int status = status_of([] {
    catch_stop_signals();
    raise(SIGTERM);
    raise(SIGINT);
    if (stop_signal() != SIGTERM) return 1;
    raise(SIGINT);
    return 2;  // not reached
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
}

TEST(fault_A3, AClosedPipeDoesNotEndTheRun) {
  const int status = status_of([] {
    catch_stop_signals();
    int ends[2];
    if (pipe(ends) != 0) return 1;
    close(ends[0]);
    const ssize_t done = write(ends[1], "x", 1);
    return done < 0 && errno == EPIPE ? 0 : 2;
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(fault_A3, AFileSizeLimitIsAnErrorCode) {
  const int status = status_of([] {
    catch_stop_signals();
    rlimit limit{4, 4};
    setrlimit(RLIMIT_FSIZE, &limit);
    char name[] = "/tmp/limit_XXXXXX";
    const int file = mkstemp(name);
    unlink(name);
    if (write(file, "12345678", 8) != 4) return 1;
    return write(file, "5678", 4) < 0 && errno == EFBIG ? 0 : 2;
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace qat
