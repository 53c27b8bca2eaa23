#include "tests/fuzz/fuzz.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/log.h"

namespace qat::fuzz {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::string_view kMark = "==== ";
constexpr uint64_t kMostData = 1 << 20;

}  // namespace

Folder::Folder() {
  path_ = access("/dev/shm", W_OK) == 0 ? "/dev/shm/qat-fuzz-XXXXXX" : "/tmp/qat-fuzz-XXXXXX";
  if (!mkdtemp(path_.data())) throw std::runtime_error("no folder " + path_);
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string Folder::write(const std::string& name, std::string_view bytes) const {
  const std::string path = path_ + "/" + name;
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), std::streamsize(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
  return path;
}

void Folder::clear() const {
  for (const auto& entry : fs::directory_iterator(path_)) fs::remove_all(entry.path());
}

bool read_or_refuse(const std::function<void()>& action) {
  spdlog::set_level(spdlog::level::off);
  try {
    action();
  } catch (const Error& error) {
    if (error.code() != Exit::refused)
      throw Broken(fmt::format("exit code {}: {}", int(error.code()), error.what()));
    if (std::getenv("QAT_FUZZ_SAYS")) std::fprintf(stderr, "refused: %s\n", error.what());
    return false;
  }
  return true;
}

std::string to_text(const Bundle& bundle) {
  std::string text;
  for (const auto& [name, bytes] : bundle) {
    if (!text.empty() && text.back() != '\n') text += '\n';
    text.append(kMark).append(name).append("\n").append(bytes);
  }
  return text;
}

Bundle to_bundle(std::string_view text, const std::vector<std::string>& names) {
  Bundle bundle;
  std::string* file = nullptr;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end);
    if (line.starts_with(kMark) && line.ends_with('\n')) {
      const std::string name(line.substr(kMark.size(), line.size() - kMark.size() - 1));
      const bool known = std::find(names.begin(), names.end(), name) != names.end();
      file = known ? &bundle[name] : nullptr;
    } else if (file) {
      file->append(line);
    }
  }
  return bundle;
}

std::string safetensors_file(std::string_view header_and_data) {
  const size_t end = std::min(header_and_data.find('\n'), header_and_data.size());
  const std::string_view header = header_and_data.substr(0, end);
  std::string data(header_and_data.substr(std::min(end + 1, header_and_data.size())));
  const Json json = Json::parse(header, nullptr, false);
  uint64_t wanted = 0;
  if (json.is_object())
    for (const Json& tensor : json) {
      if (!tensor.is_object()) continue;
      const auto at = tensor.find("data_offsets");
      if (at != tensor.end() && at->is_array() && at->size() == 2 && (*at)[1].is_number_unsigned())
        wanted = std::max(wanted, (*at)[1].get<uint64_t>());
    }
  if (wanted <= kMostData) {
    // Small positive numbers in every type, f16 and bf16 included.
    static constexpr char kFill[] = {0x10, 0x2c, 0x0d, 0x3c};
    for (size_t at = data.size(); at < wanted; ++at) data += kFill[at % sizeof kFill];
    data.resize(wanted);
  }
  const uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file.append(header).append(data);
}

std::string header_and_data(std::string_view safetensors_file) {
  uint64_t length = 0;
  std::memcpy(&length, safetensors_file.data(), sizeof length);
  std::string text(safetensors_file.substr(sizeof length, length));
  return text.append("\n").append(safetensors_file.substr(sizeof length + length));
}

void touch(const void* data, size_t bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; ++i) sum += static_cast<const unsigned char*>(data)[i];
  volatile uint64_t keep = sum;
  (void)keep;
}

}  // namespace qat::fuzz
