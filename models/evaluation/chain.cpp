#include "models/evaluation/chain.h"

#include <algorithm>
#include <cctype>

namespace qat {
namespace {

constexpr const char* kMark = "#### ";

bool digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}
bool of_number(char c) {
  return digit(c) || c == '.' || c == ',';
}

std::string normalised(std::string number) {
  std::erase(number, ',');
  std::erase(number, '$');
  if (number.ends_with('.')) number.pop_back();
  return number;
}

std::string question(const TaskRow& row) {
  return "Question: " + row.question + "\nAnswer:";
}

}  // namespace

std::string chain_prompt(const std::vector<TaskRow>& examples, const TaskRow& row) {
  std::string prompt;
  for (const TaskRow& example : examples)
    prompt += question(example) + " " + example.answer + "\n\n";
  return prompt + question(row);
}

size_t chain_end(const std::string& text) {
  size_t end = std::string::npos;
  for (const char* stop : {"Question:", "</s>", "<|im_end|>"}) end = std::min(end, text.find(stop));
  return end;
}

std::string strict_answer(const std::string& text) {
  for (size_t at = text.find(kMark); at != std::string::npos; at = text.find(kMark, at + 1)) {
    const size_t begin = at + std::char_traits<char>::length(kMark);
    size_t end = begin + (begin < text.size() && text[begin] == '-');
    const size_t digits = end;
    while (end < text.size() && of_number(text[end])) ++end;
    if (end > digits) return normalised(text.substr(begin, end - begin));
  }
  return "";
}

// Non-overlapping matches of (-?[$0-9.,]{2,})|(-?[0-9]+), the last one.
std::string flexible_answer(const std::string& text) {
  std::string last;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at + (text[at] == '-');
    size_t end = begin;
    while (end < text.size() && (of_number(text[end]) || text[end] == '$')) ++end;
    if (end - begin < 2 && (end == begin || !digit(text[begin]))) {
      ++at;
      continue;
    }
    last = text.substr(at, end - at);
    at = end;
  }
  return normalised(last);
}

}  // namespace qat
