// metrics.jsonl: exact floats, each step once, and failures that do not end a run.
#include "engine/train/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

namespace qat {
namespace {

namespace fs = std::filesystem;

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() {
    std::string pattern = (fs::temp_directory_path() / "metrics_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    path_ = folder_ / "metrics.jsonl";
  }
  ~MetricsTest() override { fs::remove_all(folder_); }

  std::string text() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> steps;
    std::ifstream in(path_);
    for (std::string line; std::getline(in, line);)
      steps.push_back(nlohmann::json::parse(line).at("step").get<int64_t>());
    return steps;
  }
  void fill(int64_t from, int64_t to, int64_t last_step) const {
    MetricsFile file(path_, last_step);
    for (int64_t step = from; step <= to; ++step)
      file.write(MetricsRecord(step).add("loss", 1.0f / float(step)));
  }
  void append(std::string_view text) const {
    std::ofstream(path_, std::ios::binary | std::ios::app) << text;
  }

  fs::path folder_, path_;
};

template <class T>
bool same_bits(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

TEST_F(MetricsTest, FloatsReadBackToTheSameBits) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 200000; ++i) {
    const uint64_t bits = random();
    float f;
    double d;
    const uint32_t low = uint32_t(bits);
    std::memcpy(&f, &low, sizeof f);
    std::memcpy(&d, &bits, sizeof d);
    if (std::isfinite(f)) {
      ASSERT_TRUE(same_bits(std::strtof(float_text(f).c_str(), nullptr), f)) << float_text(f);
      ASSERT_TRUE(same_bits(float(std::strtod(float_text(f).c_str(), nullptr)), f));
      ASSERT_TRUE(same_bits(nlohmann::json::parse(float_text(f)).get<float>(), f));
    }
    if (std::isfinite(d)) {
      ASSERT_TRUE(same_bits(std::strtod(float_text(d).c_str(), nullptr), d));
    }
  }
  EXPECT_EQ(float_text(0.1f), "0.1");
  EXPECT_EQ(float_text(-0.0f), "-0");
}

TEST_F(MetricsTest, ALineIsJson) {
  const std::string line = MetricsRecord(3)
                               .add("loss", 2.5f)
                               .add("layers", 7)
                               .add("tokens", uint64_t(1) << 63)
                               .add("bad", std::numeric_limits<float>::quiet_NaN())
                               .add("worse", -std::numeric_limits<double>::infinity())
                               .add("note", "a \"b\"\n\xff")
                               .line();
  EXPECT_EQ(line.back(), '\n');
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  const auto record = nlohmann::json::parse(line);
  EXPECT_EQ(record["step"], 3);
  EXPECT_EQ(record["loss"], 2.5);
  EXPECT_EQ(record["tokens"], uint64_t(1) << 63);
  EXPECT_TRUE(record["bad"].is_null());
  EXPECT_TRUE(record["worse"].is_null());
  EXPECT_EQ(record["note"], "a \"b\"\n\xef\xbf\xbd");
}

TEST_F(MetricsTest, EachStepOnceAfterAResume) {
  fill(1, 10, -1);
  fill(6, 8, 5);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  fill(9, 9, 8);
  EXPECT_EQ(steps().back(), 9);
  EXPECT_EQ(steps().size(), 9u);
  fill(1, 2, -1);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2}));
}

TEST_F(MetricsTest, ATornLastLineIsCutAtEveryByte) {
  fill(1, 3, -1);
  const std::string whole = text();
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t bytes = last; bytes < whole.size(); ++bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << whole.substr(0, bytes);
    fill(3, 3, 2);
    ASSERT_EQ(text(), whole) << "cut at " << bytes;
  }
  append(std::string(100, '\0'));  // what a lost write leaves after a power cut
  fill(4, 4, 3);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4}));
  append("not a record\n{\"loss\": 1}\n");
  fill(5, 5, 4);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4, 5}));
}

TEST_F(MetricsTest, AFullDiskLosesNothingOnceThereIsRoom) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  MetricsFile file(path_, -1);
  for (int64_t step = 1; step <= 3; ++step) file.write(MetricsRecord(step).add("loss", 0.5f));
  rlimit tight = before;
  tight.rlim_cur = fs::file_size(path_) + 10;  // the next line is torn
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  for (int64_t step = 4; step <= 6; ++step) file.write(MetricsRecord(step).add("loss", 0.5f));
  const std::vector<int64_t> while_full = steps();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(while_full, (std::vector<int64_t>{1, 2, 3})) << "no torn line even while full";
  file.write(MetricsRecord(7).add("loss", 0.5f));
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7}));
}

TEST_F(MetricsTest, AFullDeviceDoesNotEndTheRun) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  testing::internal::CaptureStdout();
  {
    MetricsFile file("/dev/full", -1);
    for (int64_t step = 1; step <= 5; ++step) file.write(MetricsRecord(step));
  }
  const std::string said = testing::internal::GetCapturedStdout();
  const size_t first = said.find("No space left on device");
  EXPECT_NE(first, std::string::npos) << said;
  EXPECT_EQ(said.find("No space left on device", first + 1), std::string::npos) << "said once";
}

}  // namespace
}  // namespace qat
