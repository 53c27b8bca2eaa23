// The fuzz targets without a fuzzer: every seed is read, every saved finding and every damaged seed
// is read or refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    files[entry.path().filename()] = {std::istreambuf_iterator<char>(in), {}};
  }
  return files;
}

// A few bytes changed, or some cut off, removed or repeated.
std::string damaged(std::string bytes, std::mt19937& random) {
  const size_t at = random() % bytes.size(), count = std::min(bytes.size() - at, size_t(4));
  switch (random() % 5) {
    case 0:
      bytes.resize(at);
      break;
    case 1:
      bytes.erase(at, count);
      break;
    case 2:
      bytes.insert(at, bytes.substr(at, count));
      break;
    case 3:
      std::fill_n(bytes.begin() + std::ptrdiff_t(at), count, char(random() % 2 ? 0xFF : 0));
      break;
    default:
      bytes[at] = char(bytes[at] ^ 1 << random() % 8);
  }
  return bytes;
}

class Fuzz : public testing::TestWithParam<Target> {
 protected:
  static void SetUpTestSuite() {
    folder_ = new Folder;
    write_seeds(folder_->path());
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static std::map<std::string, std::string> seeds() {
    return files_in(fs::path(folder_->path()) / GetParam().name);
  }

  static inline Folder* folder_ = nullptr;
};

TEST_P(Fuzz, ReadsItsSeeds) {
  ASSERT_FALSE(seeds().empty());
  for (const auto& [name, bytes] : seeds()) EXPECT_TRUE(GetParam().run(bytes)) << name;
}

TEST_P(Fuzz, ReadsOrRefusesDamagedSeeds) {
  std::mt19937 random(1);
  for (const auto& [name, bytes] : seeds()) {
    SCOPED_TRACE(name);
    for (int i = 0; i < 30; ++i) {
      const std::string input = damaged(bytes, random);
      EXPECT_NO_THROW(GetParam().run(input)) << i;
    }
  }
}

TEST_P(Fuzz, ReadsOrRefusesWhatWasFoundBefore) {
  const fs::path findings = fs::path("tests/fuzz/findings") / GetParam().name;
  for (const auto& [name, bytes] : files_in(findings))
    EXPECT_NO_THROW(GetParam().run(bytes)) << name;
}

INSTANTIATE_TEST_SUITE_P(, Fuzz, testing::ValuesIn(targets().begin(), targets().end()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace qat::fuzz
