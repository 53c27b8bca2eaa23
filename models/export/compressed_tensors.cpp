// Layout: formats of compressed-tensors 0.20 (compressors/quantized_compressors).
#include "models/export/compressed_tensors.h"

#include <algorithm>
#include <set>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/json.h"
#include "models/code_packing.h"
#include "models/export/codes_directory.h"

namespace qat {
namespace {

bool is_float(const ExportTensor& tensor) {
  return tensor.quant.weight->form == Form::e4m3;
}

bool is_packed(const ExportTensor& tensor, CodeLayout layout) {
  if (is_float(tensor)) return false;
  if (layout == CodeLayout::automatic) return !tensor.quant.activation;
  return layout == CodeLayout::packed;
}

const char* format_of(const ExportTensor& tensor, CodeLayout layout) {
  if (is_float(tensor)) return "float-quantized";
  return is_packed(tensor, layout) ? "pack-quantized" : "int-quantized";
}

Json weight_arguments(const ExportTensor& tensor) {
  const QuantSpec& spec = *tensor.quant.weight;
  if (spec.in_super_blocks())
    refuse("compressed-tensors export: {}: super-blocks have no form there; a GGUF file holds them",
           tensor.name);
  Json json = {{"num_bits", spec.bits},
               {"type", is_float(tensor) ? "float" : "int"},
               {"symmetric", spec.symmetric()},
               {"strategy", spec.per == Per::tensor ? "tensor"
                            : spec.per == Per::row  ? "channel"
                                                    : "group"},
               {"dynamic", false}};
  if (spec.per == Per::group) json["group_size"] = spec.group;
  return json;
}

Json activation_arguments(const ExportTensor& tensor) {
  if (!tensor.quant.activation) return nullptr;
  const QuantSpec& spec = *tensor.quant.activation;
  const bool fixed = tensor.quant.static_activation;
  const bool sayable = fixed ? spec.per == Per::tensor : spec.per == Per::row;
  if (!sayable)
    refuse(
        "compressed-tensors export: {}: {} activations per {} have no form there; use dynamic per "
        "token or static per tensor",
        tensor.name, fixed ? "static" : "dynamic",
        spec.per == Per::row     ? "token"
        : spec.per == Per::group ? "group"
                                 : "tensor");
  if (fixed && (!tensor.input_scale || (!spec.symmetric() && !tensor.input_zero)))
    internal_error("compressed-tensors export: {}: no scale for its static activation",
                   tensor.name);
  return {{"num_bits", spec.bits},
          {"type", spec.form == Form::e4m3 ? "float" : "int"},
          {"symmetric", spec.symmetric()},
          {"strategy", fixed ? "tensor" : "token"},
          {"dynamic", !fixed}};
}

Json group_of(const ExportTensor& tensor, CodeLayout layout) {
  if (is_packed(tensor, layout) && !packs(tensor.quant.weight->bits))
    refuse("compressed-tensors export: {}: {} bits do not pack into words; use the byte layout",
           tensor.name, tensor.quant.weight->bits);
  return {{"weights", weight_arguments(tensor)},
          {"input_activations", activation_arguments(tensor)},
          {"output_activations", nullptr},
          {"format", format_of(tensor, layout)}};
}

// vLLM fuses q, k, v and gate, up: one scheme for all of them.
void warn_about_fusion(const std::map<std::string, Json>& schemes) {
  for (const auto& [module, scheme] : schemes) {
    const size_t dot = module.rfind('.');
    if (dot == std::string::npos) continue;
    const std::string parent = module.substr(0, dot), name = module.substr(dot + 1);
    const std::string first = name == "k_proj" || name == "v_proj" ? "q_proj"
                              : name == "up_proj"                  ? "gate_proj"
                                                                   : "";
    if (first.empty()) continue;
    const auto other = schemes.find(parent + "." + first);
    if (other == schemes.end() || other->second != scheme) {
      log::warn(
          "compressed-tensors export: {} and {} differ in quantization; vLLM fuses them and "
          "will refuse the model (transformers loads it)",
          module, first);
      return;
    }
  }
}

Json config_of(const ExportModel& model, CodeLayout layout) {
  std::vector<std::pair<Json, std::vector<std::string>>> groups;
  std::map<std::string, Json> schemes;
  std::vector<std::string> ignore;
  for (const ExportTensor& tensor : model.tensors) {
    if (!tensor.quantized()) {
      if (is_linear(tensor)) ignore.push_back(module_of(tensor));
      continue;
    }
    Json scheme = group_of(tensor, layout);
    auto at = std::find_if(groups.begin(), groups.end(),
                           [&](const auto& group) { return group.first == scheme; });
    if (at == groups.end()) {
      groups.emplace_back(scheme, std::vector<std::string>{});
      at = groups.end() - 1;
    }
    at->second.push_back(module_of(tensor));
    schemes[module_of(tensor)] = std::move(scheme);
  }
  if (groups.empty())
    refuse("compressed-tensors export: nothing is quantized; export as huggingface instead");
  warn_about_fusion(schemes);
  // A tied head has no tensor but is a Linear to the reader.
  if (!schemes.contains("lm_head") &&
      std::find(ignore.begin(), ignore.end(), "lm_head") == ignore.end())
    ignore.push_back("lm_head");
  Json config_groups = Json::object();
  std::set<std::string> formats;
  for (size_t i = 0; i < groups.size(); ++i) {
    Json group = groups[i].first;
    formats.insert(group["format"]);
    group["targets"] = groups.size() == 1 ? Json{"Linear"} : Json(groups[i].second);
    config_groups[fmt::format("group_{}", i)] = std::move(group);
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", formats.size() == 1 ? *formats.begin() : "mixed-precision"},
          {"quantization_status", "compressed"},
          {"ignore", ignore},
          {"config_groups", config_groups}};
}

// The tensors of one quantized linear.
std::vector<SafetensorsEntry> entries_of(const ExportTensor& tensor,
                                         const CompressedTensorsOptions& options) {
  const QuantSpec& spec = *tensor.quant.weight;
  const std::string module = module_of(tensor);
  const int64_t N = tensor.shape[0], K = tensor.shape[1], G = spec.groups(K);
  const Shape grid = spec.per == Per::tensor ? Shape{1} : Shape{N, G};
  const bool packed = is_packed(tensor, options.layout);
  std::vector<SafetensorsEntry> entries;
  if (packed) {
    entries.push_back(
        {module + ".weight_packed", StoredType::i32, {N, packed_words(K, spec.bits)}});
    entries.push_back({module + ".weight_shape", StoredType::i64, {2}});
  } else {
    entries.push_back(
        {module + ".weight", is_float(tensor) ? StoredType::f8_e4m3 : StoredType::i8, {N, K}});
  }
  entries.push_back({module + ".weight_scale", options.scale_type, grid});
  if (!spec.symmetric()) {
    if (packed && spec.per != Per::tensor)
      entries.push_back(
          {module + ".weight_zero_point", StoredType::i32, {packed_words(N, spec.bits), G}});
    else
      entries.push_back({module + ".weight_zero_point", StoredType::i8, grid});
  }
  if (tensor.quant.activation && tensor.quant.static_activation) {
    entries.push_back({module + ".input_scale", StoredType::f32, {1}});
    if (!tensor.quant.activation->symmetric())
      entries.push_back({module + ".input_zero_point", StoredType::i8, {1}});
  }
  return entries;
}

void put(const ExportTensor& tensor, const std::string& part, const SafetensorsEntry& entry,
         const std::function<QuantizedMatrix()>& codes, const ByteSink& sink) {
  const int64_t N = tensor.shape[0], K = tensor.shape[1];
  if (part == "weight_shape") {
    const int64_t sizes[2] = {N, K};
    return sink(sizes, sizeof sizes);
  }
  if (part == "input_scale") return sink(&*tensor.input_scale, 4);
  if (part == "input_zero_point") {
    const int8_t zero = int8_t(*tensor.input_zero);
    return sink(&zero, 1);
  }
  const QuantizedMatrix matrix = codes();
  const int bits = matrix.spec.bits;
  if (part == "weight") return sink(matrix.codes.data(), matrix.codes.size());
  if (part == "weight_scale")
    return put_floats(sink, entry.type, matrix.scales.data(), int64_t(matrix.scales.size()));
  std::vector<int32_t> words(size_t(entry.shape.count()));
  if (part == "weight_packed") {
    pack_rows(matrix.codes.data(), N, K, bits, words.data());
    return sink(words.data(), words.size() * 4);
  }
  std::vector<int8_t> zeros(matrix.zeros.size());
  std::transform(matrix.zeros.begin(), matrix.zeros.end(), zeros.begin(),
                 [](float zero) { return int8_t(zero); });
  if (entry.type == StoredType::i8) return sink(zeros.data(), zeros.size());
  pack_columns(zeros.data(), N, matrix.groups(), bits, words.data());
  sink(words.data(), words.size() * 4);
}

}  // namespace

std::string quantization_config(const ExportModel& model, const CompressedTensorsOptions& options) {
  return config_of(model, options.layout).dump(2);
}

void export_compressed_tensors(const std::string& directory, const ExportModel& model,
                               const ExportFiles& files, const CompressedTensorsOptions& options) {
  check_export(model, "compressed-tensors");
  check_output(directory, files);
  CodesFormat format;
  format.name = "compressed-tensors";
  format.type = options.type;
  format.scale_type = options.scale_type;
  format.quantization_config = config_of(model, options.layout);
  format.entries = [&](const ExportTensor& tensor) { return entries_of(tensor, options); };
  format.put = put;
  write_codes_directory(directory, model, files, format, options.max_shard_bytes);
}

}  // namespace qat
