// B19, B20: two runs in one output directory; owners that live, died, were stopped, sit elsewhere.
#include "engine/train/run_lock.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/core/error.h"
#include "engine/train/checkpoint_files.h"
#include "tests/faults/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;

class RunLockTest : public CheckpointFixture {
 protected:
  std::string lock_path() const { return (folder_ / "run.lock").string(); }
  json owner() const { return json::parse(text_of(lock_path())); }
  void write_owner(const json& owner) const { write_text(lock_path(), owner.dump()); }
  /// The owner record of this process, with no lock held.
  json own_record() const {
    const RunLock lock(folder_, "someone");
    return owner();
  }
  /// The message of the Error(locked) a second lock meets; "" when it is granted.
  std::string refusal(RunLockOptions options = {}) const {
    try {
      const RunLock second(folder_, "second", options);
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::locked) << error.what();
      return error.what();
    }
  }
  /// A child process that holds the lock until it is killed.
  pid_t child_with_lock() const {
    const pid_t child = fork();
    if (child == 0) {
      const RunLock lock(folder_, "child");
      for (;;) pause();
    }
    while (!fs::exists(lock_path()) || fs::file_size(lock_path()) == 0)
      std::this_thread::sleep_for(5ms);
    return child;
  }
  static void end(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
};
class fault_B19 : public RunLockTest {};
class fault_B20 : public RunLockTest {};

TEST_F(fault_B19, TheSecondLiveRunIsRefusedAndNamesTheOwner) {
  const pid_t child = child_with_lock();
  const std::string message = refusal();
  EXPECT_NE(message.find("process " + std::to_string(child)), std::string::npos) << message;
  EXPECT_NE(message.find("run child"), std::string::npos) << message;
  EXPECT_NE(message.find(folder_), std::string::npos) << message;
  end(child);
}

TEST_F(fault_B19, ALockGoesWithItsRun) {
  { const RunLock lock(folder_, "first"); }
  EXPECT_FALSE(fs::exists(lock_path()));
  EXPECT_EQ(refusal(), "");
}

TEST_F(fault_B19, TheLockOfAKilledOwnerIsTakenOver) {
  end(child_with_lock());
  EXPECT_TRUE(fs::exists(lock_path()));
  EXPECT_EQ(refusal(), "");
}

TEST_F(fault_B19, ByTheRecordAloneWhereFlockIsNotTrusted) {
  // Nobody holds the flock below, as when the file system does not pass it on.
  json record = own_record();
  write_owner(record);
  EXPECT_NE(refusal(), "") << "this very process lives";
  record["start_time"] = "1";
  write_owner(record);
  EXPECT_EQ(refusal(), "") << "another process has the number now";
  record = own_record();
  record["pid"] = 1 << 30;
  write_owner(record);
  EXPECT_EQ(refusal(), "") << "no such process";
  record = own_record();
  record["boot_id"] = "before the reboot";
  write_owner(record);
  EXPECT_EQ(refusal(), "") << "nothing of before the reboot lives";
}

TEST_F(fault_B19, ATornLockFileIsTakenOver) {
  for (const char* text : {"", "{", "{\"pid\": \"x\"}", "[1]", "\xff"}) {
    write_text(lock_path(), text);
    EXPECT_EQ(refusal(), "") << text;
  }
}

TEST_F(fault_B19, AnOwnerOnAnotherHostIsJudgedByItsHeartbeat) {
  json record = own_record();
  record["boot_id"] = "another machine";
  record["host"] = "node7";
  write_owner(record);
  const RunLockOptions options{20ms, 500ms};
  std::atomic<bool> alive = true;
  std::thread far_owner([&] {
    while (alive) {
      fs::last_write_time(lock_path(), fs::file_time_type::clock::now());
      std::this_thread::sleep_for(20ms);
    }
  });
  const std::string message = refusal(options);
  alive = false;
  far_owner.join();
  EXPECT_NE(message.find("on node7"), std::string::npos) << message;
  EXPECT_EQ(refusal(options), "") << "no sign of life: taken over";
}

TEST_F(fault_B19, TheOwnerBeats) {
  const RunLock lock(folder_, "first", {10ms, 1s});
  const auto before = fs::last_write_time(lock_path());
  for (int i = 0; i < 200 && fs::last_write_time(lock_path()) == before; ++i)
    std::this_thread::sleep_for(10ms);
  EXPECT_NE(fs::last_write_time(lock_path()), before);
}

TEST_F(fault_B19, ALinkAsLockFileIsNotFollowed) {
  write_text(folder_ / "precious", "text");
  fs::create_symlink("precious", lock_path());
  EXPECT_THROW(RunLock(folder_, "first"), Error);
  EXPECT_EQ(text_of(folder_ / "precious"), "text");
}

TEST_F(fault_B20, AStoppedOwnerStillOwns) {
  const pid_t child = child_with_lock();
  kill(child, SIGSTOP);
  waitpid(child, nullptr, WUNTRACED);
  EXPECT_NE(refusal(), "");
  end(child);
}

TEST_F(fault_B20, AnOwnerTakenForDeadCommitsNothingMore) {
  const RunLock lock(folder_, "first");
  CheckpointOptions with_lock = options();
  with_lock.lock = &lock;
  CheckpointWriter writer(directory_, with_lock);
  ASSERT_TRUE(save(writer, 10).committed());
  json record = owner();
  record["run_id"] = "second";  // another host took the directory over
  write_owner(record);
  try {
    save(writer, 20);
    FAIL() << "two writers";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::locked);
    EXPECT_NE(std::string(error.what()).find("run second"), std::string::npos) << error.what();
  }
  EXPECT_EQ(names(), std::vector<std::string>{"step-10"});
}

TEST_F(fault_B20, ASaveInProgressElsewhereIsNotALeftover) {
  CheckpointWriter writer(directory_, options());
  ASSERT_TRUE(save(writer, 10).committed());
  const fs::path aside = step_path(20).string() + ".tmp-other";
  fs::create_directory(aside);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto directory = checkpoint_files::open_directory(aside);
    checkpoint_files::mark_as_being_written(directory);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    for (;;) pause();
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_TRUE(save(writer, 11).committed());
  EXPECT_TRUE(fs::exists(aside));
  end(child);
  ASSERT_TRUE(save(writer, 12).committed());
  EXPECT_FALSE(fs::exists(aside));
}

TEST(RunId, IsFitForAFileNameAndUnique) {
  const std::string a = new_run_id(), b = new_run_id();
  EXPECT_NE(a, b);
  EXPECT_EQ(a.find_first_not_of("0123456789abcdef-"), std::string::npos) << a;
}

}  // namespace
}  // namespace qat
