#include "recipes/run/prompts.h"

#include "engine/core/error.h"
#include "engine/io/json.h"

namespace qat {

std::vector<std::string> read_prompts(const std::string& path) {
  constexpr size_t kPromptBytes = size_t(64) << 20;
  const bool records = path.ends_with(".jsonl");
  const std::string text = read_text_file(path, kPromptBytes);
  std::vector<std::string> prompts;
  size_t begin = 0, end = 0;
  for (int64_t number = 1; begin < text.size(); ++number, begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    if (records) {
      const std::string where = fmt::format("{}:{}", path, number);
      const Json record = parse_json_object(line, where);
      if (!record.contains("prompt") || !record.at("prompt").is_string() ||
          record.at("prompt").get_ref<const std::string&>().empty())
        refuse("{}: expected a text in the field `prompt`", where);
      line = record.at("prompt");
    }
    prompts.push_back(std::move(line));
  }
  if (prompts.empty()) refuse("{}: expected prompts, one a line, got none", path);
  return prompts;
}

}  // namespace qat
