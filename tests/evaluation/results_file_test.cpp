// A results file after a kill, and one that is somebody else's.
#include "models/evaluation/results_file.h"

#include <gtest/gtest.h>

#include "engine/core/error.h"
#include "tests/evaluation/folder.h"

namespace qat {
namespace {

TEST(ResultsFile, KeepsRecordsByKey) {
  const Folder folder;
  const std::string path = folder.path() + "/results.jsonl";
  {
    ResultsFile file(path);
    file.add("a", {{"row", 1}, {"value", 0.1}});
    file.add("b", {{"row", 2}});
    file.add("a", {{"row", 3}});
  }
  const ResultsFile again(path);
  ASSERT_EQ(again.records("a").size(), 2u);
  EXPECT_EQ(again.records("a")[0].at("value").get<double>(), 0.1);
  EXPECT_EQ(again.records("a")[1].at("row"), 3);
  EXPECT_TRUE(again.records("c").empty());
}

TEST(ResultsFile, ATornRecordIsCut) {
  const Folder folder;
  const std::string whole = "{\"key\":\"a\",\"row\":1}\n";
  const std::string path = folder.write("results.jsonl", whole + "{\"key\":\"a\",\"ro");
  {
    ResultsFile file(path);
    EXPECT_EQ(file.records("a").size(), 1u);
    file.add("a", {{"row", 2}});
  }
  EXPECT_EQ(folder.read("results.jsonl"), whole + "{\"key\":\"a\",\"row\":2}\n");
}

TEST(ResultsFile, OtherFilesAreLeftAlone) {
  const Folder folder;
  for (const char* text : {"{\"text\": \"training data\"}\n", "notes without a line end"}) {
    const std::string path = folder.write("mine", text);
    EXPECT_THROW(ResultsFile{path}, Error);
    EXPECT_EQ(folder.read("mine"), text);
  }
}

TEST(ResultsFile, ARecordThatLacksWhatIsAskedOfItIsRefusedByFile) {
  const Folder folder;
  const ResultsFile file(folder.write("results.jsonl", "{\"key\":\"a\",\"row\":\"three\"}\n"));
  for (const auto& take : std::initializer_list<std::function<bool(const nlohmann::json&)>>{
           [](const auto& record) { return record.at("row").template get<int>() > 0; },
           [](const auto& record) { return record.at("text") == ""; },
           [](const auto&) { return false; }})
    try {
      file.take_records("a", take);
      FAIL();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("results.jsonl: a record"), std::string::npos);
    }
  file.take_records("b", [](const auto&) { return false; });
}

TEST(ResultsFile, WithoutAPathNothingIsKept) {
  ResultsFile file("");
  file.add("a", {{"row", 1}});
  EXPECT_TRUE(file.records("a").empty());
}

}  // namespace
}  // namespace qat
