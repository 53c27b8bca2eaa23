// The manifest and the names; see the header.
#include "engine/train/checkpoint_format.h"

#include <charconv>

#include "engine/io/json.h"

namespace qat::checkpoint_format {
namespace {

using nlohmann::json;

std::string body_checksum(const json& body) {
  const std::string text = body.dump();
  return checksum_of(text.data(), text.size());
}

std::string text_of(const json& body) {
  return json{{"checksum", body_checksum(body)}, {"manifest", body}}.dump() + "\n";
}

/// A digit with one flipped bit must count as damage and not as a newer format.
bool is_one_flip_from_ours(const json& whole, uint64_t version) {
  json body = whole["manifest"];
  body["format"] = kVersion;
  if (whole.value("checksum", json()) != body_checksum(body)) return false;
  const std::string ours = std::to_string(kVersion), theirs = std::to_string(version);
  int flipped = 0;
  if (ours.size() != theirs.size()) return false;
  for (size_t i = 0; i < ours.size(); ++i)
    flipped += __builtin_popcount(unsigned(ours[i] ^ theirs[i]));
  return flipped == 1;
}

void check_version(const json& whole, const std::string& path) {
  const json& body = whole["manifest"];
  const json version = body.value("format", json());
  if (!version.is_number_unsigned()) throw Damaged(path + ": it names no format version");
  const uint64_t number = version.get<uint64_t>();
  if (number == kVersion) return;
  if (number < kVersion || is_one_flip_from_ours(whole, number))
    throw Damaged(
        fmt::format("{}: format version {}, this program reads {}", path, number, kVersion));
  refuse(
      "{}: written in checkpoint format {}, this program reads up to {}: use the newer program, or "
      "move that checkpoint away",
      path, number, kVersion);
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  json files = json::array();
  for (const FileEntry& file : manifest.files)
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3_128", file.checksum}});
  return text_of({{"format", kVersion},
                  {"byte_order", "little"},
                  {"run_id", manifest.run_id},
                  {"program", manifest.program},
                  {"step", manifest.step},
                  {"world", manifest.world},
                  {"files", files}});
}

Manifest parse_manifest(const std::string& text, const std::string& path) {
  json whole;
  try {
    whole = parse_json(text, path);
  } catch (const Error& error) {
    throw Damaged(error.what());
  }
  if (!whole.is_object() || !whole.contains("manifest") || !whole["manifest"].is_object())
    throw Damaged(path + ": not a checkpoint manifest");
  check_version(whole, path);
  const json& body = whole["manifest"];
  if (body.value("byte_order", json()) == "big")
    refuse("{}: written on a big-endian machine, which this one cannot read", path);
  if (text != text_of(body)) throw Damaged(path + ": its checksum does not match its text");
  try {
    Manifest manifest;
    manifest.run_id = body.at("run_id").get<std::string>();
    manifest.program = body.at("program").get<std::string>();
    manifest.step = body.at("step").get<int64_t>();
    manifest.world = body.at("world").get<int>();
    for (const json& file : body.at("files"))
      manifest.files.push_back({file.at("name").get<std::string>(),
                                file.at("bytes").get<uint64_t>(),
                                file.at("xxh3_128").get<std::string>()});
    if (manifest.world < 1 || manifest.files.size() != size_t(manifest.world))
      throw Damaged(
          fmt::format("{}: {} files for {} ranks", path, manifest.files.size(), manifest.world));
    for (int rank = 0; rank < manifest.world; ++rank)
      if (manifest.files[size_t(rank)].name != rank_name(rank, manifest.world))
        throw Damaged(fmt::format("{}: expected {}, got {}", path, rank_name(rank, manifest.world),
                                  manifest.files[size_t(rank)].name));
    return manifest;
  } catch (const json::exception& error) {
    throw Damaged(fmt::format("{}: {}", path, error.what()));
  }
}

std::string step_name(int64_t step) {
  return fmt::format("step-{}", step);
}

std::string rank_name(int rank, int world) {
  return fmt::format("rank-{:04}-of-{:04}.bin", rank, world);
}

int64_t step_of_name(std::string_view name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return -1;
  const std::string_view digits = name.substr(kPrefix.size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  const bool canonical = error == std::errc() && step >= 0 && name == step_name(step);
  return canonical ? step : -1;
}

}  // namespace qat::checkpoint_format
