#include "engine/io/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <numeric>

#include "tests/io/files.h"

namespace qat {
namespace {

using test::bytes_of;
using test::expect_mentions;
using test::Folder;
using test::raw;
using test::refusal;

std::string file_of(const std::string& header, size_t data_bytes) {
  return raw(uint64_t(header.size())) + header + std::string(data_bytes, '\1');
}

class Hostile : public ::testing::Test {
 protected:
  std::string refused(const std::string& bytes) {
    const std::string path = folder_.write("x.safetensors", bytes);
    const std::string message = refusal([&] { Safetensors::open_file(path); });
    expect_mentions(message, "x.safetensors");
    return message;
  }
  std::string refused(const std::string& header, size_t data_bytes) {
    return refused(file_of(header, data_bytes));
  }
  Folder folder_;
};
class fault_E1 : public Hostile {};
class fault_E2 : public Hostile {};

// A tensor "a" of type, shape, offsets as given.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST_F(fault_E1, Lengths) {
  for (size_t size : {0, 1, 7, 8, 9}) refused(std::string(size, '\0'));
  for (uint64_t length : {uint64_t(0), uint64_t(1), uint64_t(13), uint64_t(1) << 31,
                          uint64_t(1) << 63, UINT64_MAX, uint64_t(100'000'001)}) {
    SCOPED_TRACE(length);
    expect_mentions(refused(raw(length) + "{}          "), "header of");
  }
  EXPECT_NO_THROW(Safetensors::open_file(folder_.write("ok.safetensors", file_of("{}  ", 0))));
}

TEST_F(fault_E1, Headers) {
  expect_mentions(refused("[]", 0), "begin with '{'");
  expect_mentions(refused("  {}", 0), "begin with '{'");
  expect_mentions(refused("{\"\xFF\":1}", 0), "not valid JSON");
  expect_mentions(refused(R"({"a":1})", 0), "\"a\"");
  expect_mentions(refused(R"({"a":{}})", 0), "no dtype");
  expect_mentions(refused(R"({"":{}})", 0), "without a name");
  expect_mentions(refused(R"({"a":{"dtype":"F32","shape":[1]}})", 4), "data_offsets");
  expect_mentions(refused(R"({"__metadata__":{"a":1}})", 0), "strings only");
  expect_mentions(refused(R"({"__metadata__":{"a":{}}})", 0), "strings only");
  expect_mentions(refused(R"({"__metadata__":"a"})", 0), "__metadata__");
  expect_mentions(refused(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice");
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[)";
  expect_mentions(refused("{" + a + "0,1]}," + a + "1,2]}}", 2), "twice");
  expect_mentions(refused(R"({"a":{"dtype":"F32","dtype":"F32"}})", 0), "twice");
  expect_mentions(refused(R"({"a":{"dtype":"F32","stride":[1]}})", 0), "stride");
  expect_mentions(refused(R"({"a":{"dtype":{"b":1}}})", 0), "object");
  expect_mentions(refused(R"({"a":{"shape":[[1]]}})", 0), "array");
  expect_mentions(refused(std::string(100'000, '['), 0), "begin with");
  expect_mentions(refused(R"({"a":)" + std::string(100'000, '['), 0), "x.safetensors");
}

TEST_F(fault_E2, Tensors) {
  expect_mentions(refused(one("F32", "[1]", "[4,0]"), 4), "reversed");
  expect_mentions(refused(one("F32", "[1]", "[0,8]"), 8), "span 8");
  expect_mentions(refused(one("F32", "[2]", "[0,8]"), 4), "truncated");
  expect_mentions(refused(one("F32", "[1]", "[4,8]"), 8), "hole");
  expect_mentions(refused(one("F32", "[1]", "[0,4]"), 5), "follow the last");
  expect_mentions(refused(one("F32", "[1]", "[0,-4]"), 4), "negative");
  expect_mentions(refused(one("F32", "[1]", "[0,1e30]"), 4), "not an integer");
  expect_mentions(refused(one("F32", "[1.5]", "[0,4]"), 4), "not an integer");
  expect_mentions(refused(one("F32", "[1]", "[0]"), 4), "expected 2");
  expect_mentions(refused(one("F32", "[1]", "[18446744073709551612,18446744073709551615]"), 4),
                  "span 3");
  expect_mentions(refused(one("F32", "[1]", "[0,99999999999999999999]"), 4), "not an integer");
  expect_mentions(refused(one("F32", "[0]", "[0,0]"), 0), "dimension of 0");
  expect_mentions(refused(one("F32", "[1099511627777]", "[0,4]"), 4), "impossible shape");
  expect_mentions(refused(one("F32", "[4294967296,4294967296,2]", "[0,4]"), 4), "impossible shape");
  expect_mentions(refused(one("F32", "[1,1,1,1,1]", "[0,4]"), 4), "dimensions");
  expect_mentions(refused(one("F31", "[1]", "[0,4]"), 4), "F31");
  const std::string overlap = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})";
  expect_mentions(refused(overlap, 6), "overlapping");
}

TEST_F(fault_E2, TruncatedAtEveryByte) {
  const std::string whole = file_of(one("F32", "[2]", "[0,8]"), 8);
  folder_.write("ok.safetensors", whole);
  ASSERT_NO_THROW(Safetensors::open_file(folder_.file("ok.safetensors")));
  for (size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    refused(whole.substr(0, size));
  }
}

TEST_F(fault_E2, SaysSoWhenTheFileShrinksUnderIt) {
  const std::string path =
      folder_.write("x.safetensors", file_of(one("F32", "[4096]", "[0,16384]"), 16384));
  const auto file = Safetensors::open_file(path);
  std::filesystem::resize_file(path, 200);
  std::vector<float> out(4096);
  expect_mentions(refusal([&] { file->read_floats(file->tensors()[0], 0, 4096, out.data()); }),
                  "changed");
}

// Supplies byte i of a tensor as i + length of its name.
void supply(const SafetensorsEntry& entry, const ByteSink& sink) {
  std::vector<uint8_t> bytes(size_t(entry.shape.count()) * size_of(entry.type));
  std::iota(bytes.begin(), bytes.end(), uint8_t(entry.name.size()));
  const size_t half = bytes.size() / 2;
  sink(bytes.data(), half);
  sink(bytes.data() + half, bytes.size() - half);
}

const std::vector<SafetensorsEntry> kEntries = {{"b.codes", StoredType::i8, {3, 5}},
                                                {"a.weight", StoredType::bf16, {7}},
                                                {"shape", StoredType::i64, {2}},
                                                {"z", StoredType::f32, {}},
                                                {"packed", StoredType::i32, {1, 2}}};

TEST(Safetensors, WritesTheLayoutAndReadsItBack) {
  const Folder folder;
  const std::string path = folder.file("m.safetensors");
  write_safetensors(path, kEntries, supply);
  const std::string bytes = bytes_of(path);
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ((8 + length) % 8, 0u);
  const auto file = Safetensors::open_file(path);
  EXPECT_EQ(file->metadata().at("format"), "pt");
  ASSERT_EQ(file->tensors().size(), kEntries.size());
  // Descending element size, then name.
  std::vector<std::string> by_offset;
  std::vector<SafetensorsTensor> tensors = file->tensors();
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.offset < b.offset; });
  for (const auto& tensor : tensors) {
    by_offset.push_back(tensor.name);
    EXPECT_EQ(tensor.offset % size_of(tensor.type), 0u) << tensor.name;
  }
  EXPECT_EQ(by_offset, (std::vector<std::string>{"shape", "packed", "z", "a.weight", "b.codes"}));
  for (const SafetensorsEntry& entry : kEntries) {
    const SafetensorsTensor* tensor = file->find(entry.name);
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->shape, entry.shape);
    EXPECT_EQ(tensor->type, entry.type);
    for (uint64_t i = 0; i < tensor->bytes; ++i)
      ASSERT_EQ(uint8_t(file->data(*tensor)[i]), uint8_t(i + entry.name.size()));
  }
  EXPECT_EQ(file->find("nothing"), nullptr);
}

TEST(Safetensors, WritesShardsWithAnIndex) {
  const Folder folder;
  const auto files = write_safetensors_directory(folder.path(), kEntries, 20, supply);
  ASSERT_EQ(files.size(), 5u);
  EXPECT_EQ(files[0], "model-00001-of-00004.safetensors");
  EXPECT_EQ(files[4], "model.safetensors.index.json");
  const auto model = Safetensors::open_directory(folder.path());
  EXPECT_EQ(model->tensors().size(), kEntries.size());
  EXPECT_EQ(uint8_t(model->data(*model->find("shape"))[3]), 8);
  const Folder single;
  EXPECT_EQ(write_safetensors_directory(single.path(), kEntries, 1000, supply),
            std::vector<std::string>{"model.safetensors"});
}

TEST(Safetensors, FloatsRoundAndWiden) {
  const Folder folder;
  const std::vector<float> values = {1.0f, -2.5f, 3.14159265f, 1e-5f};
  for (StoredType type : {StoredType::f32, StoredType::bf16, StoredType::f16}) {
    const std::string path = folder.file("f.safetensors");
    write_safetensors(path, {{"a", type, {2, 2}}}, [&](const auto&, const ByteSink& sink) {
      put_floats(sink, type, values.data(), 4);
    });
    const auto file = Safetensors::open_file(path);
    std::vector<float> out(4);
    file->read_floats(*file->find("a"), 1, 3, out.data());
    const float pi = type == StoredType::f32 ? 3.14159265f : 3.140625f;
    EXPECT_EQ(out[0], -2.5f);
    EXPECT_EQ(out[1], pi);
    EXPECT_NEAR(out[2], 1e-5f, 5e-8f);
  }
}

TEST(Safetensors, AFailedWriteLeavesNothing) {
  const Folder folder;
  const std::string path = folder.write("m.safetensors", "old");
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  Exit code = Exit::ok;
  try {
    write_safetensors(path, {{"a", StoredType::f32, {100'000}}}, supply);
  } catch (const Error& error) {
    code = error.code();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(code, Exit::cannot_write);
  EXPECT_EQ(bytes_of(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

class fault_E3 : public ::testing::Test {
 protected:
  void SetUp() override {
    write_safetensors(folder_.file("s1.safetensors"), {{"a", StoredType::f32, {1}}}, supply);
    write_safetensors(folder_.file("s2.safetensors"), {{"b", StoredType::f32, {2}}}, supply);
  }
  std::string refused(const std::string& json) {
    folder_.write("model.safetensors.index.json", json);
    return refusal([&] { Safetensors::open_directory(folder_.path()); });
  }
  static std::string map(const std::string& a, const std::string& b) {
    return R"({"metadata":{"total_size":12},"weight_map":{"a":")" + a + R"(","b":")" + b + "\"}}";
  }
  Folder folder_;
};

TEST_F(fault_E3, Reads) {
  folder_.write("model.safetensors.index.json", map("s1.safetensors", "s2.safetensors"));
  EXPECT_EQ(Safetensors::open_directory(folder_.path())->tensors().size(), 2u);
}

TEST_F(fault_E3, RefusesHostileNames) {
  for (const char* name : {"../../etc/passwd", "/etc/passwd", "../s2.safetensors", "", ".",
                           "sub/s2.safetensors", "s2.bin"})
    expect_mentions(refused(map("s1.safetensors", name)), "weight_map");
  ASSERT_EQ(mkfifo(folder_.file("fifo.safetensors").c_str(), 0600), 0);
  expect_mentions(refused(map("s1.safetensors", "fifo.safetensors")), "not a regular file");
  std::filesystem::create_directory(folder_.file("dir.safetensors"));
  expect_mentions(refused(map("s1.safetensors", "dir.safetensors")), "directory");
  const Folder elsewhere;
  write_safetensors(elsewhere.file("o.safetensors"), {{"b", StoredType::f32, {2}}}, supply);
  std::filesystem::create_symlink(elsewhere.file("o.safetensors"), folder_.file("l.safetensors"));
  expect_mentions(refused(map("s1.safetensors", "l.safetensors")), "symbolic link");
  std::filesystem::create_symlink("m.safetensors", folder_.file("m.safetensors"));
  expect_mentions(refused(map("s1.safetensors", "m.safetensors")), "symbolic link");
}

TEST_F(fault_E3, RefusesWhatDoesNotAgree) {
  expect_mentions(refused(map("s1.safetensors", "s3.safetensors")), "missing");
  expect_mentions(refused(map("s1.safetensors", "s1.safetensors")), "tensor b");
  expect_mentions(refused(R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors",)"
                          R"("c":"s2.safetensors"}})"),
                  "tensor c");
  expect_mentions(refused(R"({"weight_map":{"a":"s2.safetensors"}})"), "tensor b");
  expect_mentions(refused(R"({"metadata":{"total_size":13},"weight_map":{"a":"s1.safetensors",)"
                          R"("b":"s2.safetensors"}})"),
                  "total_size");
  expect_mentions(refused(R"({"weight_map":{"a":1}})"), "not a file name");
  expect_mentions(refused(R"({"weight_map":[]})"), "weight_map");
  expect_mentions(refused(R"({"weight_map":{}})"), "empty");
  // The same tensor in two shards.
  write_safetensors(folder_.file("s2.safetensors"),
                    {{"a", StoredType::f32, {1}}, {"b", StoredType::f32, {2}}}, supply);
  expect_mentions(refused(map("s1.safetensors", "s2.safetensors")), "tensor a");
}

TEST_F(fault_E3, RefusesAMillionNames) {
  std::string json = R"({"weight_map":{)";
  for (int i = 0; i < 1'000'000; ++i)
    json += (i ? ",\"" : "\"") + std::to_string(i) + R"(":"s1.safetensors")";
  expect_mentions(refused(json + "}}"), "JSON values");
}

TEST(Safetensors, FollowsTheHubCacheLayout) {
  const Folder cache;
  const std::string snapshot = cache.file("snapshots/abc");
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(cache.file("blobs"));
  write_safetensors(cache.file("blobs/1234"), {{"a", StoredType::f32, {1}}}, supply);
  std::filesystem::create_symlink("../../blobs/1234", snapshot + "/model.safetensors");
  EXPECT_EQ(Safetensors::open_directory(snapshot)->tensors().size(), 1u);
}

TEST(Safetensors, ReadsARealModel) {
  const char* data = std::getenv("QAT_TEST_DATA");
  if (!data) GTEST_SKIP() << "QAT_TEST_DATA is not set";
  const auto model = Safetensors::open_directory(std::string(data) + "/stories260k");
  EXPECT_EQ(model->tensors().size(), 47u);
  EXPECT_EQ(model->find("model.embed_tokens.weight")->shape, (Shape{512, 64}));
}

}  // namespace
}  // namespace qat
