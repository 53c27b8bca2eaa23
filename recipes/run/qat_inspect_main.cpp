// qat-inspect FILE_OR_DIR: tensors, grids, sizes, metadata and checksums of a model.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "engine/io/printable.h"
#include "models/source_kinds.h"
#include "recipes/run/command.h"
#include "recipes/run/inspect.h"

namespace qat {
namespace {

// "model.layers.*.mlp.up_proj.weight": the tensors of all layers are one row.
std::string without_layer(const std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size();) {
    const bool starts = i == 0 || name[i - 1] == '.';
    size_t end = i;
    while (end < name.size() && name[end] >= '0' && name[end] <= '9') ++end;
    if (starts && end > i && (end == name.size() || name[end] == '.')) {
      out += '*';
      i = end;
    } else {
      out += name[i++];
    }
  }
  return out;
}

// Metadata of a foreign file need not be UTF-8.
std::string dumped(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

struct Row {
  std::string name, shape, stored;
  int64_t count = 0, parameters = 0;
  uint64_t bytes = 0;
};

std::vector<Row> rows_of(const Inspection& inspection, bool every) {
  std::vector<Row> rows;
  std::map<std::string, size_t> places;
  for (const InspectedTensor& tensor : inspection.tensors) {
    const std::string name = every ? tensor.name : without_layer(tensor.name);
    const std::string shape = to_text(tensor.shape);
    const auto [place, is_new] = places.emplace(name + shape + tensor.stored, rows.size());
    if (is_new) rows.push_back({printable(name), shape, tensor.stored});
    Row& row = rows[place->second];
    ++row.count;
    row.parameters += tensor.shape.count();
    row.bytes += tensor.bytes;
  }
  return rows;
}

std::string text_of(const Inspection& inspection, const std::string& path, bool every) {
  std::string out = fmt::format("{}: {}\n", path, inspection.kind);
  for (const auto& [key, value] : inspection.facts) out += fmt::format("  {:<14}{}\n", key, value);
  if (!inspection.tensors.empty())
    out += fmt::format("  {:<14}{} in {} tensors, {} bytes, {:.3f} bits a weight\n", "parameters",
                       inspection.parameters(), inspection.tensors.size(), inspection.bytes(),
                       inspection.bits_per_weight());
  for (const Row& row : rows_of(inspection, every))
    out += fmt::format(
        "  {:>4} x {:<48} {:<16} {:>7.3f} bits  {}\n", row.count, row.name, row.shape,
        row.parameters ? 8.0 * double(row.bytes) / double(row.parameters) : 0.0, row.stored);
  for (const auto& [key, value] : inspection.metadata.items())
    out += fmt::format("  {} = {}\n", printable(key), printable(dumped(value)));
  for (const Inspection::File& file : inspection.files)
    out += fmt::format("  xxh3 {}  {} ({} bytes)\n", file.xxh3_128, file.path, file.bytes);
  return out;
}

}  // namespace
}  // namespace qat

int main(int argc, char** argv) {
  using namespace qat;
  CLI::App app{
      "What a model holds: tensors, grids, sizes, metadata, checksums. Everything is read; damage "
      "is said in one line and ends with 2.",
      "qat-inspect"};
  std::string path;
  bool as_json = false, every = false;
  app.add_option("path", path,
                 "safetensors or GGUF file, Hugging Face directory, adapter, run or checkpoint")
      ->required();
  app.add_flag("--tensors", every, "one line a tensor, not one for all layers");
  app.add_flag("--json", as_json, "print one JSON object");
  return run_command(app, argc, argv, [&] {
    const Inspection inspection = inspect(path);
    write_output(as_json ? dumped(to_json(inspection, path)) + "\n"
                         : text_of(inspection, path, every));
    return Exit::ok;
  });
}
