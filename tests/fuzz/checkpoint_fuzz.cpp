// A checkpoint. The input is a manifest (an object; also signed again, because its
// checksum would hide everything behind it), a rank file, or a list of the JSON headers of rank
// files: [header, ...]. A manifest that vouches for the rank files is made for them.
#include <cstring>
#include <filesystem>
#include <vector>

#include "engine/io/json.h"
#include "engine/train/checkpoint.h"
#include "engine/train/checkpoint_format.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

using nlohmann::json;
namespace format = checkpoint_format;

constexpr size_t kData = 8192;  // bytes of tensors in a file made from a header

std::string signed_text(const json& body) {
  const std::string text = body.dump(-1, ' ', false, json::error_handler_t::replace);
  return "{\"checksum\":\"" + format::checksum_of(text.data(), text.size()) +
         "\",\"manifest\":" + text + "}\n";
}

std::string rank_file(const json& header) {
  const std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  format::Prefix prefix{};
  std::memcpy(prefix.magic, format::kMagic, sizeof prefix.magic);
  prefix.byte_order = format::kByteOrder;
  prefix.version = format::kVersion;
  prefix.header_bytes = text.size();
  prefix.data_offset = format::aligned(sizeof prefix + text.size());
  std::string file(reinterpret_cast<const char*>(&prefix), sizeof prefix);
  file += text;
  file.resize(prefix.data_offset + kData, '\0');
  return file;
}

bool read_checkpoint(const std::vector<std::string>& ranks) {
  static const Folder folder;
  const std::string step = folder.path() + "/step-3";
  folder.clear();
  std::filesystem::create_directory(step);
  format::Manifest manifest;
  manifest.run_id = "run1", manifest.program = "test", manifest.step = 3;
  manifest.world = int(ranks.size());
  for (const std::string& bytes : ranks) {
    const std::string name = format::rank_name(int(manifest.files.size()), manifest.world);
    manifest.files.push_back({name, bytes.size(), format::checksum_of(bytes.data(), bytes.size())});
    folder.write("step-3/" + name, bytes);
  }
  folder.write("step-3/manifest.json", format::manifest_text(manifest));
  read_or_refuse([&] { find_checkpoint(folder.path()); });
  return read_or_refuse([&] {
    const Checkpoint checkpoint = Checkpoint::load(step);
    for (const CheckpointTensor& tensor : checkpoint.tensors()) {
      if (tensor.view.count() > int64_t(kData)) continue;  // of no bytes: rows of nothing
      const ConstView view = checkpoint.find(tensor.name);
      touch(view.data, view.bytes());
      std::vector<std::byte> copy(view.bytes());
      checkpoint.read(tensor.name, View(copy.data(), view.shape, view.dtype));
    }
  });
}

}  // namespace

bool fuzz_checkpoint(std::string_view input) {
  const auto parses = [](const std::string& text) {
    return read_or_refuse([&] { format::parse_manifest(text, "manifest.json"); });
  };
  json document;
  read_or_refuse([&] { document = parse_json(input, "input", {.depth = 24}); });
  if (input.starts_with('{')) {
    parses(std::string(input));
    return document.contains("manifest") && parses(signed_text(document["manifest"]));
  }
  if (!document.is_array() || document.empty() || document.size() > 4)
    return read_checkpoint({std::string(input)});
  std::vector<std::string> ranks;
  for (const json& header : document) ranks.push_back(rank_file(header));
  return read_checkpoint(ranks);
}

}  // namespace qat::fuzz
