#include "engine/io/json.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/io/files.h"

namespace qat {
namespace {

using test::expect_mentions;
using test::Folder;
using test::refusal;

std::string refused(std::string_view text, const JsonLimits& limits = {}) {
  return refusal([&] { parse_json(text, "f.json", limits); });
}

TEST(Json, ReadsWhatIsValid) {
  const Json json = parse_json(
      R"({"a": [1, -2, 2.5, true, null, "x\u00e9\ud83d\ude00"], "b": {"c": {}, "d": []}})", "f");
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["a"][5], "x\xC3\xA9\xF0\x9F\x98\x80");
  EXPECT_TRUE(json["b"]["d"].is_array());
  EXPECT_EQ(json, Json::parse(json.dump()));
  EXPECT_EQ(parse_json("7", "f"), 7);
  EXPECT_EQ(parse_json("18446744073709551615", "f").get<uint64_t>(), UINT64_MAX);
}

TEST(fault_E4, RefusesEveryTruncation) {
  const std::string text = R"({"a":[1.5,"b\n",{"c":null}],"d":true})";
  for (size_t length = 0; length < text.size(); ++length) {
    SCOPED_TRACE(length);
    expect_mentions(refused(std::string_view(text).substr(0, length)), "f.json");
  }
}

TEST(fault_E4, RefusesDepthBeforeTheStack) {
  expect_mentions(refused(std::string(100'000, '[')), "deeper than 64");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  expect_mentions(refused(objects), "deeper than 64");
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "f"));
}

TEST(fault_E4, RefusesDuplicateKeysWithTheirPlace) {
  const std::string text = R"({"a": 1, "b": {"x": 1, "x": 2}})";
  const std::string message = refused(text);
  expect_mentions(message, "duplicate key \"x\"");
  expect_mentions(message, "byte 26");  // just behind the second "x"
  EXPECT_NO_THROW(parse_json(R"({"a": {"a": 1}, "b": {"a": 1}})", "f"));
}

TEST(fault_E4, RefusesTheRest) {
  for (const char* text :
       {"NaN", "[Infinity]", "{} x", "{}{}", "\xEF\xBB\xBF{}", R"("\ud800")", R"("\udc00x")",
        "\"\xFF\"", "[1,]", "{\"a\":1,}", "[1e400]", "// c\n1", "'a'", "[01]", "\"a\tb\"", ""}) {
    SCOPED_TRACE(text);
    expect_mentions(refused(text), "f.json");
  }
}

TEST(fault_E4, KeepsToItsLimits) {
  expect_mentions(refused("[1,2,3,4]", {.bytes = 8}), "at most 8");
  expect_mentions(refused("[1,2,3,4]", {.values = 4}), "more than 4");
  EXPECT_NO_THROW(parse_json("[1,2,3,4]", "f", {.values = 5}));
}

TEST(fault_E4, RefusesAGigabyteUnread) {
  const Folder folder;
  const std::string path = folder.write("long.json", "\"aaaa");
  std::filesystem::resize_file(path, size_t(1) << 30);
  expect_mentions(refusal([&] { read_json_file(path); }), "1073741824 bytes of JSON, at most");
  expect_mentions(refusal([&] { read_text_file(path, 1000); }), "at most 1000");
}

TEST(fault_E4, NumbersOfAnyLengthAreReadOrRefused) {
  const std::string digits(100'000, '7');
  expect_mentions(refused(digits), "number overflow");
  expect_mentions(refused("-1e" + digits), "number overflow");
  EXPECT_EQ(parse_json("1e-" + digits, "f"), 0.0);
  EXPECT_EQ(parse_json("0." + digits, "f").get<double>(), 7.0 / 9);
}

TEST(fault_E4, RefusesWhatIsNoFile) {
  const Folder folder;
  expect_mentions(refusal([&] { read_json_file(folder.path()); }), "directory");
  expect_mentions(refusal([&] { read_json_file(folder.file("none.json")); }), "none.json");
  ASSERT_EQ(mkfifo(folder.file("fifo").c_str(), 0600), 0);
  expect_mentions(refusal([&] { read_json_file(folder.file("fifo")); }), "not a regular file");
  expect_mentions(refusal([&] { read_json_file("/dev/zero"); }), "not a regular file");
}

}  // namespace
}  // namespace qat
