#include "engine/io/safetensors_layout.h"

#include <cmath>
#include <filesystem>
#include <set>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/io/printable.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// A link may stay inside the directory, or lead to ../../blobs as in the hub's cache
// (models--x--y/snapshots/<revision>/file -> ../../blobs/<hash>).
void check_inside(const std::string& directory, const std::string& file) {
  std::error_code error;
  const fs::path path = fs::path(directory) / file;
  const fs::file_status status = fs::symlink_status(path, error);
  if (error || status.type() != fs::file_type::symlink) return;
  const fs::path target = fs::canonical(path, error);
  if (error) refuse("{}: a symbolic link that leads nowhere: {}", path.string(), error.message());
  const fs::path home = fs::canonical(directory, error);
  const fs::path blobs = home.parent_path().parent_path() / "blobs";
  if (target.parent_path() != home && target.parent_path() != blobs)
    refuse("{}: a symbolic link out of its folder, to {}", path.string(), target.string());
}

void check_shard_name(const std::string& index, const std::string& tensor,
                      const std::string& shard) {
  if (shard.empty() || shard.size() > 255 || shard.find('/') != std::string::npos ||
      shard.find('\0') != std::string::npos || !shard.ends_with(".safetensors"))
    refuse(
        "{}: weight_map sends tensor {} to \"{}\"; expected a .safetensors file beside the index",
        index, printable(tensor), printable(shard));
}

}  // namespace

SafetensorsLayout find_safetensors(const std::string& directory) {
  std::error_code error;
  SafetensorsLayout layout;
  const std::string single = "model.safetensors",
                    index = directory + "/model.safetensors.index.json";
  if (fs::exists(fs::symlink_status(directory + "/" + single, error))) {
    check_inside(directory, single);
    layout.files = {single};
    return layout;
  }
  if (!fs::exists(fs::symlink_status(index, error))) {
    const bool pickled = fs::exists(directory + "/pytorch_model.bin", error) ||
                         fs::exists(directory + "/pytorch_model.bin.index.json", error);
    const std::string shard = directory + "/model-00001-of-";
    bool sharded = false;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
         entry.increment(error))
      sharded = sharded || entry->path().string().starts_with(shard);
    refuse("{}: no model.safetensors and no model.safetensors.index.json{}", directory,
           pickled   ? "; pytorch_model.bin is not read, save the model as safetensors"
           : sharded ? "; its shards are there, the index that names them is not"
                     : "");
  }
  check_inside(directory, "model.safetensors.index.json");
  layout.index = index;
  const Json json =
      read_json_file(index, {.bytes = size_t(64) << 20, .depth = 8, .values = 400'000});
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    refuse("{}: no object \"weight_map\"", index);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    if (!shard.is_string())
      refuse("{}: weight_map entry {} is not a file name", index, printable(tensor));
    const auto& name = shard.get_ref<const std::string&>();
    check_shard_name(index, tensor, name);
    layout.weight_map.emplace(tensor, name);
    shards.insert(name);
  }
  if (shards.empty()) refuse("{}: weight_map is empty", index);
  if (shards.size() > 4096) refuse("{}: {} shards, at most 4096 are read", index, shards.size());
  layout.files.assign(shards.begin(), shards.end());
  for (const std::string& shard : layout.files) {
    if (!fs::exists(fs::symlink_status(directory + "/" + shard, error)))
      refuse("{}: shard {} is missing", index, shard);
    check_inside(directory, shard);
  }
  if (json.contains("metadata") && json["metadata"].is_object() &&
      json["metadata"].contains("total_size")) {
    const Json& total = json["metadata"]["total_size"];
    if (total.is_number_unsigned()) {
      layout.total_size = total.get<uint64_t>();
    } else if (total.is_number_float() && total.get<double>() >= 0 &&
               total.get<double>() < 0x1p63 &&
               total.get<double>() == std::floor(total.get<double>())) {
      layout.total_size = uint64_t(total.get<double>());
    } else {
      refuse("{}: metadata.total_size is {}, expected a number of bytes", index,
             printable(total.dump()));
    }
  }
  return layout;
}

}  // namespace qat
