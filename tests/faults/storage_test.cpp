// Storage that fails (faults B1 to B8): the calls of this program pass through a shim that can fail
// any of them, and real file systems that are full, out of inodes or read-only where mounting is
// allowed.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>

#include "engine/core/error.h"
#include "engine/train/checkpoint_failures.h"
#include "engine/train/run_directory.h"
#include "engine/train/signals.h"
#include "tests/faults/checkpoint_fixture.h"

namespace {

/// What a call does instead of its work: nothing (it goes through), or this many bytes at most, or
/// an errno.
struct Fault {
  enum class Kind { none, shorten, fail } kind = Kind::none;
  size_t bytes = 0;
  int error = 0;
};

/// Decides about each call while one is installed.
struct Shim {
  std::function<Fault(size_t bytes)> write;
  std::function<Fault()> fsync, close, rename, mkdir;
} shim;

bool fails(const std::function<Fault()>& decide) {
  if (!decide) return false;
  const Fault fault = decide();
  if (fault.kind != Fault::Kind::fail) return false;
  errno = fault.error;
  return true;
}

}  // namespace

// These stand before the C library's for every call this program makes.
extern "C" ssize_t write(int descriptor, const void* data, size_t bytes) {
  if (shim.write) {
    const Fault fault = shim.write(bytes);
    if (fault.kind == Fault::Kind::fail) {
      errno = fault.error;
      return -1;
    }
    if (fault.kind == Fault::Kind::shorten) bytes = std::min(bytes, fault.bytes);
  }
  return syscall(SYS_write, descriptor, data, bytes);
}
extern "C" int fsync(int descriptor) {
  return fails(shim.fsync) ? -1 : int(syscall(SYS_fsync, descriptor));
}
extern "C" int close(int descriptor) {
  const int status = int(syscall(SYS_close, descriptor));  // a failed close has closed as well
  return fails(shim.close) ? -1 : status;
}
extern "C" int rename(const char* from, const char* to) noexcept {
  return fails(shim.rename) ? -1 : int(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
extern "C" int mkdir(const char* path, mode_t mode) noexcept {
  return fails(shim.mkdir) ? -1 : int(syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

namespace qat {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;
using Status = SaveResult::Status;

Fault fail_with(int error) {
  return {Fault::Kind::fail, 0, error};
}

class Storage : public CheckpointFixture {
 protected:
  Storage() {
    save(10);
    save(20);
  }
  ~Storage() override { shim = {}; }

  void disk_full_at_any_byte();
  /// Saves step 30 with a fault installed; then either it is there, or all is as it was.
  SaveResult try_save(const Shim& faults) {
    shim = faults;
    const SaveResult result = beside_training_ ? save_beside_training(30) : save(30);
    shim = {};
    if (result.committed()) {
      EXPECT_EQ(newest(), 30);
      EXPECT_EQ(names(), (Names{"step-20", "step-30"}));
    } else {
      EXPECT_EQ(result.status, Status::cannot_write);
      EXPECT_EQ(newest(), 20);
      EXPECT_EQ(names(), (Names{"step-10", "step-20"})) << "the failed save is removed";
    }
    return result;
  }

  SaveResult save_beside_training(int64_t step) const {
    CheckpointWriter writer(directory_, options());
    const StepTensors tensors(step);
    writer.begin(step, step_state(step), tensors.list());
    return writer.finish();
  }

  /// Fails the k-th of one kind of call for every k until a save passes untouched. Returns how many
  /// saves failed.
  int fail_each(std::function<Fault()> Shim::*call, int error, const std::string& reason) {
    int failed = 0;
    for (int k = 1; k < 100; ++k) {
      int calls = 0;
      Shim faults;
      faults.*call = [&] { return ++calls == k ? fail_with(error) : Fault(); };
      const SaveResult result = try_save(faults);
      if (result.committed() && calls < k) return failed;
      if (!result.committed()) {
        ++failed;
        EXPECT_NE(result.message.find(reason), std::string::npos) << result.message;
        EXPECT_NE(result.message.find(directory_), std::string::npos) << result.message;
      } else {
        fs::remove_all(directory_);  // that call did not matter: as before, for the next one
        save(10);
        save(20);
      }
    }
    ADD_FAILURE() << "no save passed";
    return failed;
  }

  /// Runs the body in a process with mounts of its own; skips where that is not allowed.
  static void with_own_mounts(const std::function<void()>& body) {
    constexpr int kNotAllowed = 77;
    const pid_t child = fork();
    if (child == 0) {
      if (unshare(CLONE_NEWNS) != 0 ||
          mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
        _exit(kNotAllowed);
      body();
      std::fflush(stdout);
      _exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == kNotAllowed)
      GTEST_SKIP() << "mounting is not allowed here";
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "failed in its own process";
  }
  /// An empty tmpfs in place of the folder.
  void mount_small(const std::string& limits) const {
    umount(folder_.c_str());
    ASSERT_EQ(mount("tmpfs", folder_.c_str(), "tmpfs", 0, limits.c_str()), 0)
        << limits << ": " << std::strerror(errno);
  }

  bool beside_training_ = false;  ///< how try_save() saves
};
class fault_B1 : public Storage {};
class fault_B3 : public Storage {};
class fault_B4 : public Storage {};
class fault_B5 : public Storage {};
class fault_B6 : public Storage {};
class fault_B7 : public Storage {};
class fault_B8 : public Storage {};

void Storage::disk_full_at_any_byte() {
  const size_t whole = fs::file_size(rank_path(20)) + fs::file_size(manifest_path(20));
  for (size_t room = 0; room < whole; room += 211) {
    size_t left = room;
    Shim faults;
    faults.write = [&](size_t bytes) {
      if (left == 0) return fail_with(ENOSPC);
      const size_t taken = std::min(left, bytes);
      left -= taken;
      return Fault{Fault::Kind::shorten, taken, 0};
    };
    const SaveResult result = try_save(faults);
    ASSERT_FALSE(result.committed()) << "room for " << room << " of " << whole;
    EXPECT_NE(result.message.find("No space left on device"), std::string::npos);
  }
  EXPECT_TRUE(try_save({}).committed()) << "the next try, with room";
}

TEST_F(fault_B1, DiskFullAtAnyByte) {
  disk_full_at_any_byte();
}

TEST_F(fault_B1, DiskFullAtAnyByteBesideTraining) {
  beside_training_ = true;
  disk_full_at_any_byte();
}

TEST_F(fault_B1, ARealFullDisk) {
  with_own_mounts([&] {
    int committed = 0, failed = 0;
    for (int pages = 1; pages <= 24; ++pages) {
      mount_small(fmt::format("size={}k", 4 * pages));
      int64_t newest_whole = -1;
      for (int64_t step = 10; step <= 50; step += 10) {
        const SaveResult result = save(step);
        if (result.committed())
          newest_whole = step;
        else
          EXPECT_EQ(result.status, Status::cannot_write);
        (result.committed() ? committed : failed) += 1;
        EXPECT_EQ(newest(), newest_whole) << pages << " pages";
        if (!fs::exists(directory_)) continue;
        for (const std::string& name : names())
          EXPECT_EQ(name.find(".tmp-"), std::string::npos) << name;
      }
    }
    EXPECT_GT(committed, 0);
    EXPECT_GT(failed, 0);
  });
}

TEST_F(fault_B1, AfterSoManyFailuresTheRunStopsWith3) {
  SaveFailures failures(directory_, 3);
  failures.note(save(30));
  Shim faults;
  faults.write = [](size_t) { return fail_with(ENOSPC); };
  const auto failing_save = [&] {
    shim = faults;
    const SaveResult result = save(40);
    shim = {};
    return result;
  };
  failures.note(failing_save());
  failures.note(failing_save());
  failures.note(save(31));
  EXPECT_EQ(failures.in_a_row(), 0) << "a save that works starts the count again";
  failures.note(failing_save());
  failures.note(failing_save());
  try {
    failures.note(failing_save());
    FAIL() << "the third in a row";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::cannot_write);
    EXPECT_NE(std::string(error.what()).find(step_path(31)), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
  EXPECT_THROW(SaveFailures(directory_, 3).require(failing_save()), Error);
}

TEST_F(fault_B3, QuotaAtAnyWriteAndAtClose) {
  int calls = 0;
  for (int k = 1;; ++k) {
    calls = 0;
    Shim faults;
    faults.write = [&](size_t) { return ++calls >= k ? fail_with(EDQUOT) : Fault(); };
    const SaveResult result = try_save(faults);
    if (result.committed()) break;
    EXPECT_NE(result.message.find("quota"), std::string::npos) << result.message;
  }
  EXPECT_EQ(calls, 2) << "one gathered write and the manifest";
  fs::remove_all(directory_);
  save(10);
  save(20);
  EXPECT_EQ(fail_each(&Shim::close, EDQUOT, "cannot close"), 2) << "rank file and manifest";
}

TEST_F(fault_B3, FileSizeLimit) {
  const uint64_t whole = fs::file_size(rank_path(20));
  const pid_t child = fork();
  if (child == 0) {
    catch_stop_signals();
    const rlimit limit{whole - 1, whole - 1};
    setrlimit(RLIMIT_FSIZE, &limit);
    const SaveResult result = save(30);
    _exit(result.status == Status::cannot_write &&
                  result.message.find("File too large") != std::string::npos
              ? 0
              : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ(newest(), 20);
}

TEST_F(fault_B4, ShortWritesAndInterruptionsAreLoopedOver) {
  int calls = 0;
  Shim faults;
  faults.write = [&](size_t) {
    return ++calls % 3 == 0 ? fail_with(EINTR) : Fault{Fault::Kind::shorten, 100, 0};
  };
  int syncs = 0;
  faults.fsync = [&] { return ++syncs % 2 == 1 ? fail_with(EINTR) : Fault(); };
  ASSERT_TRUE(try_save(faults).committed());
  EXPECT_GT(calls, 100);
  EXPECT_GE(syncs, 8);
}

TEST_F(fault_B5, AnErrorOnlyAtASync) {
  EXPECT_EQ(fail_each(&Shim::fsync, EIO, "Input/output error"), 5)
      << "rank file, directory, manifest, directory, parent";
}

TEST_F(fault_B5, AnErrorOnlyAtASyncBesideTraining) {
  beside_training_ = true;
  EXPECT_EQ(fail_each(&Shim::fsync, EIO, "Input/output error"), 5);
}

TEST_F(fault_B5, AnErrorOnlyAtAClose) {
  EXPECT_EQ(fail_each(&Shim::close, EIO, "Input/output error"), 2) << "rank file and manifest";
}

TEST_F(fault_B5, AFailedRenameOrDirectory) {
  EXPECT_EQ(fail_each(&Shim::rename, EIO, "Input/output error"), 1);
  fs::remove_all(directory_);
  save(10);
  save(20);
  EXPECT_EQ(fail_each(&Shim::mkdir, EACCES, "Permission denied"), 2);
}

TEST_F(fault_B6, NoInodes) {
  with_own_mounts([&] {
    mount_small("nr_inodes=9");
    ASSERT_TRUE(save(10).committed());
    ASSERT_TRUE(save(20).committed());
    const SaveResult result = save(30);
    EXPECT_EQ(result.status, Status::cannot_write);
    EXPECT_NE(result.message.find("No space left on device"), std::string::npos) << result.message;
    EXPECT_EQ(newest(), 20);
    EXPECT_EQ(names(), (Names{"step-10", "step-20"}));
  });
}

std::string refusal_of(const std::string& out) {
  try {
    const RunDirectory run(out);
    run.check({});
    run.prepare();
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused) << error.what();
    return error.what();
  }
}

TEST_F(fault_B7, AReadOnlyOutputDirectoryIsRefusedBeforeAnythingIsLoaded) {
  with_own_mounts([&] {
    mount_small("size=1m");
    fs::create_directory(folder_ / "run");
    ASSERT_EQ(mount("none", folder_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
    for (const char* name : {"run", "new/run"}) {
      const std::string message = refusal_of((folder_ / name).string());
      EXPECT_NE(message.find("Read-only file system"), std::string::npos) << message;
      EXPECT_NE(message.find(folder_.string()), std::string::npos) << message;
    }
  });
}

TEST_F(fault_B7, NoPermission) {
  const fs::path out = folder_ / "run";
  fs::create_directory(out);
  fs::permissions(out, fs::perms(0555));
  const pid_t child = fork();
  if (child == 0) {
    fs::permissions(folder_, fs::perms(0755));
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(77);
    const std::string message = refusal_of(out.string());
    _exit(message.find("Permission denied") != std::string::npos ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_F(fault_B7, AProbeThatCannotBeRenamed) {
  shim.rename = [] { return fail_with(EPERM); };
  EXPECT_NE(refusal_of((folder_ / "run").string()).find("Operation not permitted"),
            std::string::npos);
  shim = {};
  EXPECT_TRUE(fs::is_empty(folder_ / "run"));
}

TEST_F(fault_B8, ReadOnlyInMidRun) {
  with_own_mounts([&] {
    mount_small("size=1m");
    ASSERT_TRUE(save(10).committed());
    ASSERT_TRUE(save(20).committed());
    ASSERT_EQ(mount("none", folder_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
    const SaveResult result = save(30);
    EXPECT_EQ(result.status, Status::cannot_write);
    EXPECT_NE(result.message.find("Read-only file system"), std::string::npos) << result.message;
    EXPECT_EQ(newest(), 20);
    ASSERT_EQ(mount("none", folder_.c_str(), nullptr, MS_REMOUNT, nullptr), 0);
    EXPECT_TRUE(save(40).committed());
    EXPECT_EQ(newest(), 40);
  });
}

}  // namespace
}  // namespace qat
