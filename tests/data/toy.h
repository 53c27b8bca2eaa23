// A byte tokenizer with one merge, scratch folders and made-up text for the tests of engine/data.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "engine/core/error.h"
#include "engine/core/random.h"
#include "engine/data/text_encoder.h"

namespace qat::toy {

inline constexpr int32_t kBos = 256, kEos = 257, kMerged = 258;

/// Bytes are ids, except that "th" is the one token kMerged.
inline std::vector<int32_t> encode(std::string_view text) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i, 2) == "th") {
      ids.push_back(kMerged);
      ++i;
    } else {
      ids.push_back(uint8_t(text[i]));
    }
  }
  return ids;
}

inline TextEncoder encoder() {
  TextEncoder made;
  made.encode = encode;
  made.fingerprint = 0x1234;
  made.vocab_size = 259;
  made.eos = kEos;
  return made;
}

/// "<role>content" for each message; the assistant's content counts.
inline ChatRenderer renderer() {
  const auto render = [](const std::vector<ChatMessage>& messages) {
    std::vector<TextPiece> pieces;
    for (const ChatMessage& message : messages) {
      pieces.push_back({"<" + message.role + ">", Loss::ignored});
      pieces.push_back(
          {message.content, message.role == "assistant" ? Loss::counted : Loss::ignored});
    }
    return pieces;
  };
  return {render, 0x5678};
}

/// A folder of its own for a test, removed with it.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "qat-data-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  std::string write(const std::string& name, std::string_view content) const {
    const std::string path = path_ + "/" + name;
    // A truncated and rewritten file is flushed to disk at once by some file systems: slow.
    ::unlink(path.c_str());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  size_t files() const {
    return size_t(std::distance(std::filesystem::directory_iterator(path_),
                                std::filesystem::directory_iterator()));
  }

 private:
  std::string path_;
};

inline std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Sentences in the manner of a dictionary of jargon, the same for the same number.
inline std::string sentence(uint64_t number) {
  static const char* const kWho[] = {"the hacker", "a wizard", "that kluge", "the daemon"};
  static const char* const kDoes[] = {"frobs", "groks", "munges", "thrashes"};
  static const char* const kWhat[] = {"the core", "a cons cell", "nethack", "both threads"};
  const auto words = philox(7, 0, number);
  std::string text =
      std::string(kWho[words[0] % 4]) + " " + kDoes[words[1] % 4] + " " + kWhat[words[2] % 4];
  for (uint32_t i = 0; i < words[3] % 5; ++i) text += ", really";
  return text + ".";
}

/// `records` lines {"text": ...} of one to four sentences.
inline std::string jsonl(uint64_t records, uint64_t from = 0) {
  std::string lines;
  for (uint64_t i = from; i < from + records; ++i) {
    lines += "{\"text\": \"";
    for (uint64_t k = 0; k <= philox(8, 0, i)[0] % 4; ++k) lines += sentence(4 * i + k) + " ";
    lines += "\"}\n";
  }
  return lines;
}

/// The folder with real data, or "" when the tests run without.
inline std::string real_data() {
  const char* folder = std::getenv("QAT_TEST_DATA");
  return folder == nullptr ? "" : folder;
}

/// Runs `act`, expects it to refuse, returns the message.
template <class Act>
std::string refusal(Act act, Exit code = Exit::refused) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(int(error.code()), int(code)) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

}  // namespace qat::toy
