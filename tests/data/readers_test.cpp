// Documents out of data files, good and bad.
#include "engine/data/readers.h"

#include <sys/stat.h>

#include "tests/data/toy.h"

namespace qat {
namespace {

using toy::Folder;
using toy::refusal;

std::vector<Document> read(const std::string& path, const ReadOptions& options = {}) {
  std::vector<Document> documents;
  const ContentHash content = read_documents(
      path, options, [&](Document&& document) { documents.push_back(std::move(document)); });
  EXPECT_EQ(content, hash_file(path));
  return documents;
}

ReadOptions as(DataFormat format) {
  ReadOptions options;
  options.format = format;
  return options;
}

TEST(Readers, PlainTextIsOneDocument) {
  const Folder folder;
  const std::string text = "one\n\ntwo\r\nthree";
  const auto documents = read(folder.write("a.txt", text));
  ASSERT_EQ(documents.size(), 1u);
  EXPECT_EQ(documents[0].pieces[0].text, text);
}

TEST(Readers, JsonLinesSkipBlankLinesAndNumberTheRest) {
  const Folder folder;
  const auto documents = read(folder.write(
      "a.jsonl", "\xEF\xBB\xBF{\"text\": \"a\\n\\u00e9\"}\r\n\n  \n{\"id\": 3, \"text\": \"\"}"));
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[0].pieces[0].text, "a\n\xC3\xA9");
  EXPECT_EQ(documents[1].pieces[0].text, "");
  EXPECT_TRUE(documents[1].where.ends_with("a.jsonl:4"));
}

TEST(Readers, LinesLongerThanABlockArrivWhole) {
  const Folder folder;
  std::string lines;
  for (const size_t size : {size_t{3} << 20, size_t{5}, (size_t{1} << 20) - 12, size_t{1} << 20}) {
    lines += "{\"text\": \"" + std::string(size, char('a' + size % 7)) + "\"}\n";
  }
  const auto documents = read(folder.write("long.jsonl", lines));
  ASSERT_EQ(documents.size(), 4u);
  EXPECT_EQ(documents[0].pieces[0].text.size(), size_t{3} << 20);
  EXPECT_EQ(documents[2].pieces[0].text.size(), (size_t{1} << 20) - 12);
  EXPECT_EQ(documents[3].pieces[0].text, std::string(size_t{1} << 20, char('a' + (1 << 20) % 7)));
}

TEST(Readers, PromptAndCompletionUnderOtherNames) {
  const Folder folder;
  ReadOptions options = as(DataFormat::prompt_completion);
  options.fields.prompt = "question";
  options.fields.completion = "answer";
  options.fields.separator = "\n";
  const auto documents =
      read(folder.write("a.jsonl", R"({"question": "1+1?", "answer": "2"})"), options);
  ASSERT_EQ(documents[0].pieces.size(), 2u);
  EXPECT_EQ(documents[0].pieces[0].text, "1+1?\n");
  EXPECT_EQ(documents[0].pieces[0].loss, Loss::ignored);
  EXPECT_EQ(documents[0].pieces[1].text, "2");
  EXPECT_EQ(documents[0].pieces[1].loss, Loss::counted);
}

TEST(Readers, MessagesGoThroughTheRenderer) {
  const Folder folder;
  ReadOptions options = as(DataFormat::messages);
  options.renderer = [] { return toy::renderer(); };
  const std::string path = folder.write(
      "a.jsonl",
      R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]})");
  const auto documents = read(path, options);
  ASSERT_EQ(documents[0].pieces.size(), 4u);
  EXPECT_EQ(documents[0].pieces[3].text, "yo");
  EXPECT_EQ(documents[0].pieces[3].loss, Loss::counted);
  options.renderer = nullptr;
  EXPECT_NE(refusal([&] { read(path, options); }).find("chat template"), std::string::npos);
}

TEST(Readers, TheFieldsOfTheFirstRecordSayWhatItIs) {
  const Folder folder;
  ReadOptions options;
  const auto format = [&](const std::string& text) {
    return format_of(folder.write("a.jsonl", "\n" + text + "\n{broken"), options);
  };
  EXPECT_EQ(format(R"({"id": 1, "text": "a", "prompt": "b"})"), DataFormat::text);
  EXPECT_EQ(format(R"({"prompt": "a", "completion": "b"})"), DataFormat::prompt_completion);
  EXPECT_EQ(format(R"({"prompt": "a", "messages": []})"), DataFormat::messages);
  EXPECT_EQ(format_of(folder.write("a.txt", R"({"messages": 1})"), {}), DataFormat::text);
  options.fields.prompt = "question";
  options.fields.completion = "answer";
  EXPECT_EQ(format(R"({"question": "a", "answer": "b", "prompt": 1})"),
            DataFormat::prompt_completion);
  const std::string neither = refusal([&] { format(R"({"questions": "a", "answer": "b"})"); });
  for (const char* part : {"a.jsonl:2: ", "\"question\"", "answer, questions", "data.prompt_field"})
    EXPECT_NE(neither.find(part), std::string::npos) << neither;
  const std::string both = refusal([&] { format(R"({"text": "a", "messages": []})"); });
  EXPECT_NE(both.find("messages as well as text"), std::string::npos) << both;
  EXPECT_NE(both.find("data.format"), std::string::npos) << both;
}

TEST(Readers, BadRecordsAreRefusedByLine) {
  const Folder folder;
  struct Case {
    DataFormat format;
    std::string line, cause;
  };
  const std::vector<Case> cases = {
      {DataFormat::text, R"({"text": "a")", "not valid JSON"},
      {DataFormat::text, R"({"text": "a"} x)", "not valid JSON"},
      {DataFormat::text, "{\"text\": \"\xFF\"}", "not valid JSON"},
      {DataFormat::text, R"({"text": "\ud800"})", "not valid JSON"},
      {DataFormat::text, R"(["a"])", "expected a JSON object, got array"},
      {DataFormat::text, R"({"txt": "a"})", "no field \"text\" (the record has: txt)"},
      {DataFormat::text, R"({"a\n": "a"})", "(the record has: a?)"},
      {DataFormat::text, R"({"text": "a", "text": "b"})", "text"},
      {DataFormat::text, R"({"text": 5})", "should be a string, got number"},
      {DataFormat::text, R"({"text": null})", "should be a string, got null"},
      {DataFormat::text, R"({"text": "a", "x": )" + std::string(100000, '['), "nested deeper"},
      {DataFormat::prompt_completion, R"({"prompt": "a"})", "no field \"completion\""},
      {DataFormat::messages, R"({"messages": "a"})", "should be a list"},
      {DataFormat::messages, R"({"messages": ["a"]})", "messages[0]: expected an object"},
      {DataFormat::messages, R"({"messages": [{"role": "user"}]})", "no field \"content\""},
      {DataFormat::messages, R"({"messages": [{"role": "a", "content": "", "tool_calls": [{}]}]})",
       "not supported"},
  };
  for (const Case& c : cases) {
    const std::string path = folder.write("bad.jsonl", "\n" + c.line + "\n");
    ReadOptions options = as(c.format);
    options.renderer = [] { return toy::renderer(); };
    const std::string message = refusal([&] { read(path, options); });
    EXPECT_NE(message.find("bad.jsonl:2: "), std::string::npos) << message;
    EXPECT_NE(message.find(c.cause), std::string::npos) << message;
    EXPECT_LT(message.size(), 600u);
  }
}

TEST(Readers, ARecordCutAnywhereIsRefused) {
  const Folder folder;
  const std::string line =
      R"({"id": [1, 2.5e3, null, {"a": true}], "text": "caf\u00e9 \ud83d\ude00 )"
      "\xC3\xA9\"}";
  EXPECT_EQ(read(folder.write("a.jsonl", line)).size(), 1u);
  for (size_t size = 1; size < line.size(); ++size) {
    const std::string path = folder.write("cut.jsonl", line.substr(0, size));
    EXPECT_NE(refusal([&] { read(path); }).find("cut.jsonl:1: not valid JSON"), std::string::npos);
  }
}

TEST(Readers, WhatIsNotARegularFileIsRefusedAtOnce) {
  const Folder folder;
  EXPECT_NE(refusal([&] { read(folder / "none.txt"); }).find("No such file"), std::string::npos);
  std::filesystem::create_directory(folder / "d.txt");
  EXPECT_NE(refusal([&] { read(folder / "d.txt"); }).find("directory"), std::string::npos);
  ASSERT_EQ(::mkfifo((folder / "pipe.txt").c_str(), 0600), 0);
  EXPECT_NE(refusal([&] { read(folder / "pipe.txt"); }).find("not a regular"), std::string::npos);
  EXPECT_NE(refusal([&] { read("/dev/zero", as(DataFormat::text)); }).find("not a regular"),
            std::string::npos);
}

TEST(Readers, TheExtensionDecides) {
  EXPECT_EQ(container_of("x/a.TXT", DataFormat::automatic), Container::plain);
  EXPECT_EQ(container_of("a.jsonl", DataFormat::automatic), Container::json_lines);
  EXPECT_EQ(container_of("a.bin", DataFormat::automatic), Container::tokens);
  EXPECT_EQ(container_of("a.rst", DataFormat::text), Container::plain);
  refusal([] { container_of("v1.2/readme", DataFormat::automatic); });
  refusal([] { container_of("a.txt", DataFormat::prompt_completion); });
}

TEST(Readers, GlobsAreSortedByByte) {
  const Folder folder;
  for (const char* name : {"b.txt", "a10.txt", "B.txt", "a2.txt", "odd[1].txt"}) {
    folder.write(name, "x");
  }
  const auto found = expand_globs({folder / "*.txt"});
  const std::vector<std::string> expected = {folder / "B.txt", folder / "a10.txt",
                                             folder / "a2.txt", folder / "b.txt",
                                             folder / "odd[1].txt"};
  EXPECT_EQ(found, expected);
  EXPECT_EQ(expand_globs({folder / "odd[1].txt"}).size(), 1u);
  EXPECT_NE(refusal([&] { expand_globs({folder / "*.json"}); }).find("matches nothing"),
            std::string::npos);
  refusal([] { expand_globs({}); });
}

TEST(Readers, EvaluationTextJoinsRecordsByABlankLine) {
  const Folder folder;
  ContentHash content;
  const std::string path =
      folder.write("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"\"}\n{\"text\":\"b\"}\n");
  EXPECT_EQ(read_joined_text(path, {}, content), "a\n\n\n\nb");
  EXPECT_EQ(content, hash_file(path));
  const std::string pairs = folder.write("b.jsonl",
                                         "{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n"
                                         "{\"prompt\":\"2+2=\",\"completion\":\"4\"}\n");
  EXPECT_EQ(read_joined_text(pairs, {}, content), "1+1=2\n\n2+2=4");
}

}  // namespace
}  // namespace qat
