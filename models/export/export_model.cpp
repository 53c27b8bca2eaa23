#include "models/export/export_model.h"

#include <algorithm>
#include <filesystem>

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"
#include "engine/io/json.h"
#include "engine/io/mapped_file.h"
#include "models/families.h"
#include "models/source_kinds.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCopied[] = {"tokenizer.json",
                                   "tokenizer_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "tokenizer.model",
                                   "chat_template.jinja",
                                   "chat_template.json",
                                   "generation_config.json"};

}  // namespace

std::vector<ExportTensor> export_tensors(const ModelConfig& config) {
  std::vector<ExportTensor> tensors;
  for (SourceTensor& tensor : expected_tensors(config))
    tensors.push_back({.name = std::move(tensor.name), .shape = tensor.shape});
  return tensors;
}

ModelConfig check_export(const ExportModel& model, const std::string& format) {
  const std::string name = format + " export";
  const ModelConfig config =
      config_from_huggingface(parse_json_object(model.config_json, name), name);
  std::vector<SourceTensor> given;
  for (const ExportTensor& tensor : model.tensors) {
    given.push_back({tensor.name, tensor.shape});
    if (tensor.quantized() && (tensor.shape.rank() != 2 || !tensor.name.ends_with(".weight")))
      internal_error("{}: {} cannot be quantized", name, tensor.name);
  }
  match_tensors(config, name, given);
  return config;
}

void write_side_files(const std::string& directory, const ExportFiles& files) {
  for (const auto& [name, text] : files.texts) write_file_atomically(directory + "/" + name, text);
  if (files.source_directory.empty()) return;
  for (const char* name : kCopied) {
    const std::string from = files.source_directory + "/" + name;
    if (files.texts.contains(name) || !fs::exists(from)) continue;
    const MappedFile file = MappedFile::open(from);
    write_file_atomically(directory + "/" + name, file.text(0, file.size()));
  }
}

void check_output(const std::string& output, const ExportFiles& files) {
  if (files.source_directory.empty()) return;
  std::error_code error;
  const fs::path source = fs::weakly_canonical(files.source_directory, error);
  const fs::path target = fs::weakly_canonical(output, error);
  const auto [end, unused] =
      std::mismatch(target.begin(), target.end(), source.begin(), source.end());
  if (end == target.end())
    refuse("{}: an export there would replace the model it is made from ({})", output,
           files.source_directory);
}

}  // namespace qat
