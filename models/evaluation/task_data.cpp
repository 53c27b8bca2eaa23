#include "models/evaluation/task_data.h"

#include <xxhash.h>

#include <algorithm>

#include "engine/core/error.h"
#include "engine/io/json.h"

namespace qat {
namespace {

constexpr size_t kTaskBytes = size_t(1) << 30;

// A row's fields, each refused by name.
class Fields {
 public:
  Fields(const Json& row, std::string where) : row_(row), where_(std::move(where)) {}

  std::string text(const char* key) const {
    const Json& value = at(key, "a text");
    if (!value.is_string() || value.get_ref<const std::string&>().empty()) wrong(key, "a text");
    return value;
  }
  std::vector<std::string> texts(const char* key) const {
    constexpr const char* kExpected = "a list of two texts or more";
    const Json& value = at(key, kExpected);
    std::vector<std::string> texts;
    if (value.is_array())
      for (const Json& element : value) {
        if (!element.is_string() || element.get_ref<const std::string&>().empty())
          wrong(key, kExpected);
        texts.push_back(element);
      }
    if (texts.size() < 2) wrong(key, kExpected);
    return texts;
  }
  size_t index(const char* key, size_t count) const {
    const std::string expected = fmt::format("a whole number below {}", count);
    const Json& value = at(key, expected);
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= count) wrong(key, expected);
    return value.get<size_t>();
  }
  double number(const char* key) const {
    const Json& value = at(key, "a number");
    if (!value.is_number()) wrong(key, "a number");
    return value;
  }

 private:
  const Json& at(const char* key, const std::string& expected) const {
    const auto found = row_.find(key);
    if (found == row_.end())
      refuse("{}: expected the field `{}` ({}), got none; see Tasks in README.md", where_, key,
             expected);
    return *found;
  }
  [[noreturn]] void wrong(const char* key, const std::string& expected) const {
    refuse("{}: expected {} in the field `{}`, got {:.60}", where_, expected, key,
           row_.at(key).dump(-1, ' ', true, Json::error_handler_t::replace));
  }

  const Json& row_;
  std::string where_;
};

std::string without_line_ends(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

TaskRow row_of(const TaskSpec& spec, const Fields& fields) {
  TaskRow row;
  const auto add = [&](const std::string& context, const std::string& continuation) {
    row.pairs.push_back({context, " " + continuation, code_points(continuation)});
  };
  switch (spec.kind) {
    case TaskKind::choices: {
      std::string context = fields.text("context");
      if (*spec.prompt) context = without_line_ends(context) + spec.prompt;
      const std::vector<std::string> choices = fields.texts("choices");
      for (const std::string& choice : choices) add(context, choice);
      row.gold = fields.index("gold", choices.size());
      break;
    }
    case TaskKind::contexts: {
      const std::vector<std::string> contexts = fields.texts("contexts");
      for (const std::string& context : contexts) add(context, fields.text("continuation"));
      row.gold = fields.index("gold", contexts.size());
      break;
    }
    case TaskKind::passkey:
      row.passkey_length = int64_t(fields.number("length"));
      row.passkey_depth = fields.number("depth");
      [[fallthrough]];
    case TaskKind::cloze: {
      const std::string continuation = fields.text("continuation");
      row.pairs.push_back({fields.text("context"), continuation, code_points(continuation)});
      break;
    }
    case TaskKind::chain:
      row.question = fields.text("question");
      row.answer = fields.text("answer");
      break;
  }
  return row;
}

TaskData read_rows(const TaskSpec& spec, const std::string& path, int64_t limit) {
  TaskData data;
  data.spec = &spec;
  data.path = path;
  const std::string text = read_text_file(path, kTaskBytes);
  size_t begin = 0, end = 0;
  for (int64_t line = 1; begin < text.size(); ++line, begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    if (end == begin) continue;
    if (limit > 0 && int64_t(data.rows.size()) >= limit) break;
    const std::string where = fmt::format("{}:{}", path, line);
    const std::string_view row(text.data() + begin, end - begin);
    data.rows.push_back(row_of(spec, Fields(parse_json_object(row, where), where)));
    data.hash = XXH3_64bits_withSeed(row.data(), row.size(), data.hash);
  }
  if (data.rows.empty()) refuse("{}: expected JSON lines, got an empty file", path);
  return data;
}

}  // namespace

const std::vector<TaskSpec>& task_specs() {
  constexpr const char* kAnswer = "\nAnswer:";
  static const std::vector<TaskSpec> kSpecs = {
      {"hellaswag", TaskKind::choices, "hellaswag.jsonl", ""},
      {"arc_easy", TaskKind::choices, "arc_easy.jsonl", kAnswer},
      {"arc_challenge", TaskKind::choices, "arc_challenge.jsonl", kAnswer},
      {"piqa", TaskKind::choices, "piqa.jsonl", kAnswer},
      {"openbookqa", TaskKind::choices, "openbookqa.jsonl", ""},
      {"winogrande", TaskKind::contexts, "winogrande.jsonl", ""},
      {"lambada", TaskKind::cloze, "lambada.jsonl", ""},
      {"gsm8k", TaskKind::chain, "gsm8k_test_500.jsonl", kAnswer},
      {"passkey", TaskKind::passkey, "passkey.jsonl", ""},
  };
  return kSpecs;
}

const TaskSpec& task_named(const std::string& name) {
  std::string known;
  for (const TaskSpec& spec : task_specs()) {
    if (name == spec.name) return spec;
    known += (known.empty() ? "" : ", ") + std::string(spec.name);
  }
  refuse("\"{}\" is no task; expected one of {}", name, known);
}

TaskData read_task(const TaskSpec& spec, const std::string& directory, int64_t limit) {
  return read_rows(spec, directory + "/" + spec.file, limit);
}

std::vector<TaskRow> read_chain_examples(const std::string& path, int64_t count) {
  if (count == 0) return {};
  TaskData data = read_rows(task_named("gsm8k"), path, count);
  if (int64_t(data.rows.size()) < count)
    refuse("{}: expected {} examples, got {}; ask for fewer", path, count, data.rows.size());
  return std::move(data.rows);
}

int64_t code_points(const std::string& utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace qat
