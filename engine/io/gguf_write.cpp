// The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
#include "engine/io/gguf_write.h"

#include <cstring>
#include <set>

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"
#include "engine/io/gguf.h"

namespace qat {
namespace {

constexpr uint64_t kAlignment = 32;

uint64_t padded(uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// The header, which is small: the largest vocabularies take a few MB.
class Header {
 public:
  template <class T>
  void put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put_text(const std::string& text) {
    put(uint64_t(text.size()));
    text_ += text;
  }

  void put_field(const GgufField& field) {
    enum : uint32_t { kU16 = 2, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };
    const auto array = [&](uint32_t type, size_t count) {
      put(uint32_t(kArray));
      put(type);
      put(uint64_t(count));
    };
    if (const auto* number = std::get_if<uint32_t>(&field)) {
      put(uint32_t(kU32));
      put(*number);
    } else if (const auto* small = std::get_if<uint16_t>(&field)) {
      put(uint32_t(kU16));
      put(*small);
    } else if (const auto* integer = std::get_if<int32_t>(&field)) {
      put(uint32_t(kI32));
      put(*integer);
    } else if (const auto* real = std::get_if<float>(&field)) {
      put(uint32_t(kF32));
      put(*real);
    } else if (const auto* flag = std::get_if<bool>(&field)) {
      put(uint32_t(kBool));
      put(uint8_t(*flag));
    } else if (const auto* text = std::get_if<std::string>(&field)) {
      put(uint32_t(kString));
      put_text(*text);
    } else if (const auto* texts = std::get_if<std::vector<std::string>>(&field)) {
      array(kString, texts->size());
      for (const std::string& item : *texts) put_text(item);
    } else if (const auto* reals = std::get_if<std::vector<float>>(&field)) {
      array(kF32, reals->size());
      for (const float item : *reals) put(item);
    } else {
      const auto& numbers = std::get<std::vector<int32_t>>(field);
      array(kI32, numbers.size());
      for (const int32_t item : numbers) put(item);
    }
  }

  void put_entry(const GgufEntry& entry, uint64_t offset) {
    put_text(entry.name);
    put(uint32_t(entry.shape.rank()));
    for (int i = entry.shape.rank(); i-- > 0;) put(int64_t(entry.shape[i]));
    put(uint32_t(entry.type));
    put(offset);
  }

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void check(const std::vector<GgufKey>& keys, const std::vector<GgufEntry>& entries) {
  std::set<std::string> seen;
  for (const GgufKey& key : keys)
    if (!seen.insert(key.key).second) internal_error("GGUF: key {} twice", key.key);
  seen.clear();
  for (const GgufEntry& entry : entries) {
    if (entry.name.empty() || entry.name.size() > 63 || !seen.insert(entry.name).second)
      internal_error("GGUF: tensor name {} is too long, empty or taken", entry.name);
    if (entry.shape.cols() % gguf_block(uint32_t(entry.type))->elements != 0)
      internal_error("GGUF: rows of {} do not divide into blocks of {}", entry.name,
                     gguf_type_name(uint32_t(entry.type)));
  }
}

}  // namespace

uint64_t GgufEntry::bytes() const {
  const GgufBlock& block = *gguf_block(uint32_t(type));
  return uint64_t(shape.count() / block.elements * block.bytes);
}

void write_gguf(const std::string& path, const std::vector<GgufKey>& keys,
                const std::vector<GgufEntry>& entries,
                const std::function<void(const GgufEntry&, const GgufSink&)>& contents) {
  check(keys, entries);
  Header header;
  header.put(uint32_t(0x46554747));
  header.put(uint32_t(3));
  header.put(int64_t(entries.size()));
  header.put(int64_t(keys.size()));
  for (const GgufKey& key : keys) {
    header.put_text(key.key);
    header.put_field(key.value);
  }
  uint64_t offset = 0;
  for (const GgufEntry& entry : entries) {
    header.put_entry(entry, offset);
    offset += padded(entry.bytes());
  }
  OutputFile file(path);
  const auto pad = [&] {
    static constexpr char kZeros[kAlignment] = {};
    file.write(kZeros, size_t(padded(file.bytes()) - file.bytes()));
  };
  file.write(header.text());
  pad();
  for (const GgufEntry& entry : entries) {
    const uint64_t end = file.bytes() + entry.bytes();
    contents(entry, [&](const void* data, size_t bytes) { file.write(data, bytes); });
    if (file.bytes() != end)
      internal_error("GGUF: {} bytes too {} for {}", file.bytes() < end ? "some" : "more",
                     file.bytes() < end ? "few" : "many", entry.name);
    pad();
    file.start_sync();
  }
  file.sync();
  file.close();
}

std::string split_name(const std::string& path, int part, int parts) {
  const std::string_view extension = ".gguf";
  const std::string stem =
      path.ends_with(extension) ? path.substr(0, path.size() - extension.size()) : path;
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, part + 1, parts);
}

std::string write_gguf_split(
    const std::string& path, const std::vector<GgufKey>& keys,
    const std::vector<GgufEntry>& entries, uint64_t most_bytes,
    const std::function<void(const GgufEntry&, const GgufSink&)>& contents) {
  std::vector<std::vector<GgufEntry>> parts(1);
  uint64_t in_part = 0;
  for (const GgufEntry& entry : entries) {
    const uint64_t bytes = padded(entry.bytes());
    if (in_part > 0 && (bytes > most_bytes || in_part > most_bytes - bytes)) {
      parts.emplace_back();
      in_part = 0;
    }
    parts.back().push_back(entry);
    in_part += bytes;
  }
  if (parts.size() == 1) {
    write_gguf(path, keys, entries, contents);
    return path;
  }
  if (parts.size() > 65535)
    refuse("{}: {} split files, a GGUF model has at most 65535; allow larger ones", path,
           parts.size());
  const int count = int(parts.size());
  for (int part = 0; part < count; ++part) {
    std::vector<GgufKey> own = part == 0 ? keys : std::vector<GgufKey>{};
    own.push_back({kSplitNumber, uint16_t(part)});
    own.push_back({kSplitCount, uint16_t(count)});
    own.push_back({kSplitTensors, int32_t(entries.size())});
    write_gguf(split_name(path, part, count), own, parts[size_t(part)], contents);
  }
  return split_name(path, 0, count);
}

}  // namespace qat
