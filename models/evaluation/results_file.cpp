#include "models/evaluation/results_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <filesystem>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/data/input_file.h"
#include "engine/io/atomic_file.h"
#include "engine/io/json.h"

namespace qat {

namespace fs = std::filesystem;

namespace {

constexpr size_t kResultBytes = size_t(1) << 30;

bool decides_numbers(const Store::Entry& entry) {
  if (entry.name.starts_with("cache.") || entry.name.starts_with("teacher.")) return false;
  return entry.category == Category::masters || entry.category == Category::base ||
         entry.category == Category::state;
}

}  // namespace

std::string model_identity(const Store& store, std::string_view settings) {
  uint64_t hash = XXH3_64bits(settings.data(), settings.size());
  for (const Store::Entry& entry : store.entries()) {
    if (!decides_numbers(entry)) continue;
    hash = XXH3_64bits_withSeed(entry.name.data(), entry.name.size(), hash);
    hash = XXH3_64bits_withSeed(entry.view.data, entry.view.bytes(), hash);
  }
  return fmt::format("{:016x}", hash);
}

ResultsFile::ResultsFile(std::string path) : path_(std::move(path)) {
  if (path_.empty() || !fs::exists(path_)) return;
  const std::string text = read_text_file(path_, kResultBytes);
  size_t begin = 0;
  for (int64_t line = 1;; ++line) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string where = fmt::format("{}:{}", path_, line);
    nlohmann::json record =
        parse_json_object(std::string_view(text).substr(begin, end - begin), where);
    if (!record.contains("key") || !record.at("key").is_string())
      refuse("{}: expected a record of qat-eval, got something else; name another file", where);
    records_.push_back(std::move(record));
    begin = end + 1;
  }
  if (begin == text.size()) return;
  // Only what this program began to write and could not finish is cut away.
  if (!std::string_view(text).substr(begin).starts_with("{\"key\":"))
    refuse("{}: expected records of qat-eval, got something else; name another file", path_);
  log::warn("{}: the last record is not whole; it is computed again", path_);
  if (::truncate(path_.c_str(), off_t(begin)) != 0) cannot_write("shorten", path_, errno);
}

std::vector<nlohmann::json> ResultsFile::records(const std::string& key) const {
  std::vector<nlohmann::json> found;
  for (const nlohmann::json& record : records_)
    if (record.at("key") == key) found.push_back(record);
  return found;
}

void ResultsFile::take_records(const std::string& key,
                               const std::function<bool(const nlohmann::json&)>& take) const {
  for (const nlohmann::json& record : records(key)) {
    bool whole = false;
    try {
      whole = take(record);
    } catch (const nlohmann::json::exception&) {
    }
    if (!whole)
      refuse("{}: a record of this model's answers is damaged; remove the file, or name another",
             path_);
  }
}

void ResultsFile::add(const std::string& key, const nlohmann::json& record) {
  if (path_.empty()) return;
  nlohmann::ordered_json line = {{"key", key}};
  for (const auto& [name, value] : record.items()) line[name] = value;
  const std::string text =
      line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const Descriptor file(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!file) cannot_write("open", path_, errno);
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(file.get(), text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) cannot_write("write", path_, errno);
    done += size_t(written);
  }
}

}  // namespace qat
