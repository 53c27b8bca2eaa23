// TensorBoard event files: check values of the CRC, bytes of the messages, and files of a run that
// was stopped and went on.
#include "engine/train/tensorboard.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <vector>

#include "engine/train/tensorboard_encode.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using std::string_literals::operator""s;

/// Records of a file, their CRCs checked.
std::vector<std::string> records_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    uint32_t crc_of_length = 0, crc = 0;
    if (bytes.size() - at < 12) return ADD_FAILURE() << "torn record", records;
    std::memcpy(&length, &bytes[at], 8);
    std::memcpy(&crc_of_length, &bytes[at + 8], 4);
    EXPECT_EQ(crc_of_length, tensorboard::masked_crc32c(std::string_view(bytes).substr(at, 8)));
    if (bytes.size() - at < 16 + length) return ADD_FAILURE() << "torn record", records;
    records.push_back(bytes.substr(at + 12, length));
    std::memcpy(&crc, &bytes[at + 12 + length], 4);
    EXPECT_EQ(crc, tensorboard::masked_crc32c(records.back()));
    at += 16 + length;
  }
  return records;
}

class EventFileTest : public testing::Test {
 protected:
  EventFileTest() {
    std::string pattern = (fs::temp_directory_path() / "events_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~EventFileTest() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST(Crc32c, CheckValuesOfRfc3720) {
  EXPECT_EQ(tensorboard::crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(tensorboard::crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(tensorboard::crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(tensorboard::masked_crc32c("123456789"), 0xc78ab0e5u);
}

TEST(Encode, BytesOfEachMessage) {
  const std::string time = "\x09\0\0\0\0\0\0\xf0\x3f"s;  // field 1, double 1.0
  EXPECT_EQ(tensorboard::version_event(1), time + "\x1a\x0d" + "brain.Event:2");
  EXPECT_EQ(tensorboard::start_event(1, 300), time + "\x10\xac\x02" + "\x3a\x02\x08\x01");
  EXPECT_EQ(tensorboard::scalar_value("a", 1.5f), "\x0a\x08\x0a\x01"s + "a" + "\x15\0\0\xc0\x3f"s);
  EXPECT_EQ(tensorboard::summary_event(1, 3, "xyz"), time + "\x10\x03\x2a\x03xyz");
  EXPECT_EQ(tensorboard::text_value("t", "hi"),
            "\x0a\x1b\x0a\x01t\x42\x0c\x08\x07\x12\x04\x12\x02\x08\x01\x42\x02hi"
            "\x4a\x08\x0a\x06\x0a\x04text"s);
}

TEST(Encode, AHistogramCountsEveryFiniteValueOnce) {
  const std::vector<float> values = {-2,
                                     -2,
                                     0,
                                     1e-30f,
                                     0.5f,
                                     3,
                                     3,
                                     3,
                                     std::numeric_limits<float>::quiet_NaN(),
                                     std::numeric_limits<float>::infinity(),
                                     std::numeric_limits<float>::max()};
  const std::string value = tensorboard::histogram_value("h", values);
  // Value{tag "h"} with lengths above 127 in two bytes, then min and max.
  const size_t at = value.find("\x09");
  ASSERT_NE(at, std::string::npos);
  double low, high, number;
  std::memcpy(&low, &value[at + 1], 8);
  std::memcpy(&high, &value[at + 10], 8);
  std::memcpy(&number, &value[at + 19], 8);
  EXPECT_EQ(low, -2);
  EXPECT_EQ(high, double(std::numeric_limits<float>::max()));
  EXPECT_EQ(number, 9);
}

TEST_F(EventFileTest, ARunThatWentOnSortsAfterTheEarlierOne) {
  const EventFile::Scalar loss[] = {{"loss", 1.0f}, {"lr", 2e-5f}};
  std::string first, second;
  {
    EventFile file(folder_, 1);
    for (int64_t step = 1; step <= 5; ++step) file.scalars(step, loss);
    file.text(0, "recipe", "steps: 5");
    first = file.path();
  }
  // The clock was set back by an hour between the two.
  const std::string name = fs::path(first).filename();
  const int64_t time = std::stoll(name.substr(20));
  fs::rename(first, folder_ / ("events.out.tfevents." + std::to_string(time + 3600) + ".h.1"));
  {
    EventFile file(folder_, 4);
    file.scalars(4, loss);
    second = file.path();
  }
  EXPECT_EQ(std::stoll(fs::path(second).filename().string().substr(20)), time + 3601);
  const auto records = records_of(second);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  EXPECT_EQ(records[1].substr(9), "\x10\x04\x3a\x02\x08\x01") << "start at step 4";
  EXPECT_EQ(
      records_of(folder_ / ("events.out.tfevents." + std::to_string(time + 3600) + ".h.1")).size(),
      8u);
}

TEST_F(EventFileTest, AFullDiskTearsNoRecord) {
  std::signal(SIGXFSZ, SIG_IGN);
  EventFile file(folder_, 1);
  const EventFile::Scalar loss[] = {{"loss", 1.0f}};
  file.scalars(1, loss);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit tight = before;
  tight.rlim_cur = fs::file_size(file.path()) + 20;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  file.scalars(2, loss);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(records_of(file.path()).size(), 3u);
  file.scalars(3, loss);
  EXPECT_EQ(records_of(file.path()).size(), 4u);
}

}  // namespace
}  // namespace qat
