#include "engine/io/gguf.h"

#include <gtest/gtest.h>

#include "engine/io/gguf_blocks.h"
#include "tests/io/files.h"

namespace qat {
namespace {

using test::expect_mentions;
using test::Folder;
using test::raw;
using test::refusal;

std::string text(std::string_view value) {
  return raw(uint64_t(value.size())) + std::string(value);
}
std::string key_u32(std::string_view key, uint32_t value) {
  return text(key) + raw(uint32_t(4)) + raw(value);
}
std::string key_string(std::string_view key, std::string_view value) {
  return text(key) + raw(uint32_t(8)) + text(value);
}
std::string header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  return "GGUF" + raw(version) + raw(tensors) + raw(keys);
}
std::string tensor(std::string_view name, const std::vector<uint64_t>& sizes, uint32_t type,
                   uint64_t offset) {
  std::string out = text(name) + raw(uint32_t(sizes.size()));
  for (uint64_t size : sizes) out += raw(size);
  return out + raw(type) + raw(offset);
}
std::string padded(std::string bytes, size_t alignment = 32) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
  return bytes;
}
std::string floats(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += raw(float(i) + 0.5f);
  return out;
}

// Two keys, an F32 tensor of [2, 3] and a Q8_0 row.
std::string small_file() {
  std::string q8 = raw(uint16_t(0x3800));  // 0.5
  for (int i = 0; i < 32; ++i) q8 += char(i - 16);
  return padded(header(2, 2) + key_string("general.architecture", "test") + key_u32("n", 7) +
                tensor("a", {3, 2}, 0, 0) + tensor("b", {32}, 8, 32)) +
         padded(floats(6)) + q8;
}

class Gguf : public ::testing::Test {
 protected:
  std::shared_ptr<const GgufFile> open(const std::string& bytes) {
    return GgufFile::open(folder_.write("x.gguf", bytes));
  }
  std::string refused(const std::string& bytes) {
    const std::string message = refusal([&] { open(bytes); });
    expect_mentions(message, "x.gguf");
    return message;
  }
  Folder folder_;
};
class fault_E6 : public Gguf {};

TEST_F(Gguf, ReadsKeysAndTensors) {
  const auto file = open(small_file());
  EXPECT_EQ(*file->string("general.architecture"), "test");
  EXPECT_EQ(file->integer("n", 0), 7);
  EXPECT_EQ(file->integer("m", 3), 3);
  EXPECT_EQ(file->string("m"), nullptr);
  expect_mentions(refusal([&] { file->string("n"); }), "not a string");
  ASSERT_EQ(file->tensors().size(), 2u);
  const GgufTensor* a = file->find("a");
  EXPECT_EQ(a->shape, (Shape{2, 3}));
  float row[3];
  file->read_rows(*a, 1, 1, row);
  EXPECT_EQ(row[0], 3.5f);
  EXPECT_EQ(row[2], 5.5f);
  float b[32];
  file->read_rows(*file->find("b"), 0, 1, b);
  EXPECT_EQ(b[0], -8.0f);
  EXPECT_EQ(b[31], 7.5f);
}

TEST_F(Gguf, ReadsArraysOfEveryType) {
  const auto array = [](uint32_t type, uint64_t count) {
    return raw(uint32_t(9)) + raw(type) + raw(count);
  };
  const auto file =
      open(header(0, 5) + text("s") + array(8, 2) + text("x") + text("") + text("f") + array(6, 2) +
           raw(1.5f) + raw(-2.0f) + text("i") + array(5, 2) + raw(int32_t(-1)) + raw(int32_t(4)) +
           text("b") + array(7, 1) + "\1" + text("u") + array(10, 1) + raw(uint64_t(9)));
  EXPECT_EQ(*file->strings("s"), (std::vector<std::string>{"x", ""}));
  EXPECT_EQ(*file->numbers("f"), (std::vector<double>{1.5, -2.0}));
  EXPECT_EQ(*file->integers("i"), (std::vector<int64_t>{-1, 4}));
  EXPECT_EQ(*file->integers("b"), (std::vector<int64_t>{1}));
  EXPECT_EQ(*file->integers("u"), (std::vector<int64_t>{9}));
}

TEST_F(fault_E6, TruncatedAtEveryByte) {
  const std::string whole = small_file();
  ASSERT_NO_THROW(open(whole));
  for (size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    refused(whole.substr(0, size));
  }
}

TEST_F(fault_E6, RefusesHostileHeaders) {
  refused("GGML" + small_file().substr(4));
  expect_mentions(refused(header(0, 0, 1)), "version 1");
  expect_mentions(refused(header(0, 0, 4)), "version 4");
  expect_mentions(refused(header(0, 0, 0x03000000)), "big-endian");
  expect_mentions(refused(header(uint64_t(1) << 63, 0)), "tensors");
  expect_mentions(refused(header(0, uint64_t(1) << 63)), "keys");
  expect_mentions(refused(header(100'000, 0)), "claims 100000 tensors");
  expect_mentions(refused(header(0, 1) + raw(uint64_t(1) << 63) + "abc"), "claims");
  expect_mentions(refused(header(0, 1) + text("k") + raw(uint32_t(8)) + raw(UINT64_MAX)), "claims");
  expect_mentions(refused(header(0, 1) + text("k") + raw(uint32_t(13))), "value type 13");
  expect_mentions(refused(header(0, 1) + text("k") + raw(uint32_t(7)) + "\2"), "boolean 2");
  expect_mentions(refused(header(0, 2) + key_u32("k", 1) + key_u32("k", 2)), "twice");
  const std::string array = header(0, 1) + text("k") + raw(uint32_t(9));
  expect_mentions(refused(array + raw(uint32_t(9)) + raw(uint64_t(1))), "array of arrays");
  expect_mentions(refused(array + raw(uint32_t(4)) + raw(uint64_t(1) << 62)), "elements");
  expect_mentions(refused(array + raw(uint32_t(4)) + raw(uint64_t(1'000'000))), "bytes follow");
  expect_mentions(refused(array + raw(uint32_t(8)) + raw(uint64_t(3'000'000))), "bytes follow");
  expect_mentions(refused(array + raw(uint32_t(77)) + raw(uint64_t(1))), "unknown type 77");
  for (uint32_t alignment : {0u, 3u, 1u << 30})
    expect_mentions(refused(header(0, 1) + key_u32("general.alignment", alignment)), "alignment");
  expect_mentions(refused(header(0, 1) + key_string("general.alignment", "x")), "alignment");
}

TEST_F(fault_E6, RefusesHostileTensors) {
  const auto with = [](const std::string& tensors, int count) {
    return padded(header(uint64_t(count), 0) + tensors) + padded(floats(64));
  };
  ASSERT_NO_THROW(open(with(tensor("a", {3, 2}, 0, 0), 1)));
  expect_mentions(refused(with(tensor("a", {3, 2}, 99, 0), 1)), "unknown type 99");
  expect_mentions(refused(with(tensor("a", {1, 1, 1, 1, 1}, 0, 0), 1)), "5 dimensions");
  expect_mentions(refused(with(tensor("a", {}, 0, 0), 1)), "0 dimensions");
  expect_mentions(refused(with(tensor("a", {0, 2}, 0, 0), 1)), "impossible size");
  expect_mentions(refused(with(tensor("a", {1u << 31, 1u << 31}, 0, 0), 1)), "impossible size");
  expect_mentions(refused(with(tensor("a", {UINT64_MAX}, 0, 0), 1)), "impossible size");
  expect_mentions(refused(with(tensor("a", {1000}, 0, 0), 1)), "past the end");
  expect_mentions(refused(with(tensor("a", {2}, 0, 32), 1)), "expected 0");
  expect_mentions(refused(with(tensor("a", {2}, 0, UINT64_MAX - 31), 1)), "expected 0");
  expect_mentions(refused(with(tensor("a", {33}, 8, 0), 1)), "rows of 33");
  expect_mentions(refused(with(tensor("a", {2}, 0, 0) + tensor("a", {2}, 0, 32), 2)), "twice");
  expect_mentions(refused(with(tensor("a", {2}, 0, 0) + tensor("b", {2}, 0, 8), 2)), "expected 32");
  expect_mentions(refused(with(tensor(std::string(64, 'n'), {2}, 0, 0), 1)), "64 bytes");
  const auto file = open(with(tensor("a", {256}, 10, 0), 1));
  float out[256];
  expect_mentions(refusal([&] { file->read_rows(file->tensors()[0], 0, 1, out); }), "Q2_K");
}

// Random bytes and the values the gguf package decodes from them (golden/make_gguf_blocks.py).
TEST(GgufBlocks, DecodeAsTheGgufPackageDoes) {
  std::ifstream golden("tests/io/golden/gguf_blocks.txt");
  ASSERT_TRUE(golden) << "run from the repository's root";
  const auto from_hex = [](const std::string& hex) {
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2)
      bytes += char(std::stoi(hex.substr(i, 2), nullptr, 16));
    return bytes;
  };
  uint32_t type;
  std::string stored, values;
  int types = 0;
  while (golden >> type >> stored >> values) {
    const std::string from = from_hex(stored), expected = from_hex(values);
    const GgufBlock& block = *gguf_block(type);
    SCOPED_TRACE(block.name);
    const int64_t blocks = int64_t(from.size()) / block.bytes;
    std::vector<float> out(size_t(blocks * block.elements));
    ASSERT_EQ(out.size() * 4, expected.size());
    decode_blocks(GgufType(type), reinterpret_cast<const std::byte*>(from.data()), blocks,
                  out.data());
    EXPECT_EQ(std::memcmp(out.data(), expected.data(), expected.size()), 0);
    ++types;
  }
  EXPECT_EQ(types, 10);
}

}  // namespace
}  // namespace qat
