// What qat-inspect says of files and directories that are damaged, foreign, or not there.
#include "recipes/run/inspect.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "engine/io/safetensors.h"
#include "tests/io/files.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::expect_mentions;
using test::Folder;
using test::refusal;

std::string refused(const std::string& path) {
  const std::string message = refusal([&] { inspect(path); });
  expect_mentions(message, path);
  return message;
}

// A file whose header has as many bytes as its first one, a byte that other kinds begin with, says.
std::string tensors_with_header_of(char first) {
  std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  header.resize(size_t(uint8_t(first)), ' ');
  return test::raw(uint64_t(header.size())) + header + "x";
}

TEST(Inspect, ForeignFilesAreNamedWhateverTheirNameSays) {
  const Folder folder;
  const std::pair<std::string, const char*> kinds[] = {
      {"", "is empty"},
      {std::string("PK\x03\x04", 4) + std::string(40, 'x'), "zip archive"},
      {"\x80\x02}q", "pickle"},
      {"\x89HDF\r\n\x1a\n", "HDF5"},
      {"\x89PNG\r\n\x1a\n", "PNG"},
      {"\xff\xd8\xff\xe0", "JPEG"},
      {"\x1f\x8b\x08", "gzip"},
      {"tjgg1234", "before GGUF"},
      {"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
      {"<!DOCTYPE html><html>", "HTML"},
      {R"({"abcde":{"f":1}})", "name the directory"}};
  for (const char* name : {"a", "a.gguf", "a.safetensors"})
    for (const auto& [bytes, what] : kinds) {
      SCOPED_TRACE(std::string(name) + " " + what);
      expect_mentions(refused(folder.write(name, bytes)), what);
    }
  expect_mentions(refused(folder.write("a", "a,b\n1,2\n")), "neither safetensors nor GGUF");
  expect_mentions(refused(folder.write("a.gguf", "a,b\n1,2\n")), "header of a GGUF");
  for (const char first : {'{', '[', '<', '\x80', '\xff'})
    EXPECT_EQ(inspect(folder.write("a", tensors_with_header_of(first))).tensors.size(), 1u);
}

TEST(Inspect, WhatIsNoFileIsNamedAndNeverWaitedFor) {
  const Folder folder;
  expect_mentions(refused(folder.file("none")), "No such file");
  fs::create_symlink("loop", folder.file("loop"));
  expect_mentions(refused(folder.file("loop")), "symbolic links");
  ASSERT_EQ(mkfifo(folder.file("fifo").c_str(), 0600), 0);
  expect_mentions(refused(folder.file("fifo")), "not a regular file");
  expect_mentions(refused("/dev/zero"), "not a regular file");
}

TEST(Inspect, DirectoriesSayWhatTheyHoldInstead) {
  const auto with = [](std::initializer_list<const char*> names, const char* expected) {
    const Folder folder;
    for (const char* name : names) {
      fs::create_directories(fs::path(folder.file(name)).parent_path());
      folder.write(name, "x");
    }
    expect_mentions(refused(folder.path()), expected);
  };
  with({}, "is empty");
  with({"notes.txt"}, "expected a model, a run, a checkpoint or an adapter");
  with({"model-Q4_0.gguf", "README.md"}, "model-Q4_0.gguf but no config.json; name that file");
  with({"model.safetensors"}, "model.safetensors but no config.json");
  with({"recipe.yaml"}, "no model/config.json yet");
  with({"rank-0000-of-0001.bin"}, "never finished");
  with({"step-20/manifest.json", "step-30/manifest.json"}, "one of them, such as step-20");
  with({"checkpoints/step-20/manifest.json"}, "no recipe.yaml");
}

TEST(Inspect, ShardsWithoutTheirIndex) {
  const Folder folder;
  folder.write("model-00001-of-00002.safetensors", "x");
  expect_mentions(refusal([&] { Safetensors::open_directory(folder.path()); }),
                  "the index that names them is not");
}

TEST(Inspect, AdaptersThatAreNotWhole) {
  const Folder folder;
  folder.write("adapter_config.json", R"({"peft_type": "LORA", "r": 2})");
  expect_mentions(refused(folder.path()), "adapter_model.safetensors: is missing");
  folder.write("adapter_model.bin", "x");
  expect_mentions(refused(folder.path()), "adapter_model.bin is not read");
  folder.write("adapter_model.safetensors", tensors_with_header_of('\x40'));
  EXPECT_EQ(inspect(folder.path()).tensors.size(), 1u);
  folder.write("adapter_config.json", "[]");
  expect_mentions(refused(folder.path()), "expected a JSON object, got array");
}

}  // namespace
}  // namespace qat
