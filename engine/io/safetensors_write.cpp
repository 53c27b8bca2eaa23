// Writing: the header follows from the list of tensors, so the data streams behind it.
#include <algorithm>
#include <vector>

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "kernels/float_types.h"

namespace qat {
namespace {

uint64_t bytes_of(const SafetensorsEntry& entry) {
  return uint64_t(entry.shape.count()) * size_of(entry.type);
}

std::string header_of(const std::vector<SafetensorsEntry>& entries) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  uint64_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    header += fmt::format(R"(,{}:{{"dtype":"{}","shape":[)", Json(entry.name).dump(),
                          name_of(entry.type));
    for (int i = 0; i < entry.shape.rank(); ++i)
      header += fmt::format("{}{}", i ? "," : "", entry.shape[i]);
    header += fmt::format(R"(],"data_offsets":[{},{}]}})", offset, offset + bytes_of(entry));
    offset += bytes_of(entry);
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  return header;
}

}  // namespace

void write_safetensors(const std::string& path, std::vector<SafetensorsEntry> entries,
                       const SafetensorsSupply& supply) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    if (size_of(a.type) != size_of(b.type)) return size_of(a.type) > size_of(b.type);
    return a.name < b.name;
  });
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    internal_error("{}: tensor {} would be written twice", path, *twice);
  AtomicFile file(path);
  const std::string header = header_of(entries);
  const uint64_t length = header.size();
  file.write(&length, 8);
  file.write(header);
  for (const SafetensorsEntry& entry : entries) {
    const uint64_t begin = file.bytes();
    supply(entry, [&](const void* data, size_t bytes) { file.write(data, bytes); });
    if (file.bytes() - begin != bytes_of(entry))
      internal_error("{}: tensor {} was given {} bytes, its shape and dtype {} need {}", path,
                     entry.name, file.bytes() - begin, name_of(entry.type), bytes_of(entry));
  }
  file.commit();
}

std::vector<std::string> write_safetensors_directory(const std::string& directory,
                                                     const std::vector<SafetensorsEntry>& entries,
                                                     uint64_t max_shard_bytes,
                                                     const SafetensorsSupply& supply) {
  std::vector<std::vector<SafetensorsEntry>> shards(1);
  uint64_t total = 0, in_shard = 0;
  for (const SafetensorsEntry& entry : entries) {
    const uint64_t bytes = bytes_of(entry);
    if (in_shard > 0 && in_shard + bytes > max_shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(entry);
    in_shard += bytes;
    total += bytes;
  }
  if (shards.size() == 1) {
    write_safetensors(directory + "/model.safetensors", shards[0], supply);
    return {"model.safetensors"};
  }
  std::vector<std::string> files;
  Json weight_map = Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    files.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size()));
    for (const SafetensorsEntry& entry : shards[i]) weight_map[entry.name] = files.back();
    write_safetensors(directory + "/" + files.back(), std::move(shards[i]), supply);
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  files.push_back("model.safetensors.index.json");
  write_file_atomically(directory + "/" + files.back(), index.dump(2) + "\n");
  return files;
}

void put_floats(const ByteSink& sink, StoredType type, const float* values, int64_t count) {
  if (type == StoredType::f32) return sink(values, size_t(count) * 4);
  if (type != StoredType::bf16 && type != StoredType::f16)
    internal_error("put_floats: {} is not a type for real numbers", name_of(type));
  constexpr int64_t kChunk = 1 << 18;
  std::vector<uint16_t> chunk(size_t(std::min(count, kChunk)));
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t n = std::min(kChunk, count - begin);
    const float* from = values + begin;
    if (type == StoredType::bf16)
      for (int64_t i = 0; i < n; ++i) chunk[size_t(i)] = to_bfloat16(from[i]).bits;
    else
      for (int64_t i = 0; i < n; ++i) chunk[size_t(i)] = to_float16(from[i]).bits;
    sink(chunk.data(), size_t(n) * 2);
  }
}

}  // namespace qat
