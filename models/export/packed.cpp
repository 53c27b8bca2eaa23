// Layouts: AutoGPTQ/GPTQModel `qlinear` (pack) and AutoAWQ `gemm`. p = 32 / bits codes a word,
// N outputs, K inputs, G groups of a row.
//   GPTQ  qweight [K/p, N] along the inputs, qzeros [G, N/p] along the outputs, scales [G, N],
//         g_idx [K]; v1 keeps zero points less one
//   AWQ   qweight [K, N/8], qzeros [G, N/8] along the outputs and interleaved, scales [G, N]
#include "models/export/packed.h"

#include <algorithm>
#include <functional>

#include "engine/core/error.h"
#include "engine/core/version.h"
#include "engine/io/json.h"
#include "models/code_packing.h"
#include "models/export/codes_directory.h"

namespace qat {
namespace {

enum class Method { gptq, awq };

// The one grid of all quantized linears.
QuantSpec one_spec(const ExportModel& model, const char* name, Method method) {
  std::optional<QuantSpec> common;
  std::string first;
  for (const ExportTensor& tensor : model.tensors) {
    if (!tensor.quantized()) continue;
    const QuantSpec& spec = *tensor.quant.weight;
    const auto is = [&](bool fits, const char* what) {
      if (!fits) refuse("{} export: {}: {}", name, tensor.name, what);
    };
    if (method == Method::awq)
      is(spec.bits == 4, "AWQ has 4 bits only");
    else
      is(packs(spec.bits), "2, 4 and 8 bits are written");
    is(spec.per != Per::tensor,
       "one scale for a whole matrix has no form there; use groups or "
       "channels");
    is(tensor.shape[0] % 32 == 0 && tensor.shape[1] % 32 == 0, "its sizes are not multiples of 32");
    const bool same =
        !common || (spec.bits == common->bits && spec.per == common->per &&
                    spec.group == common->group && spec.symmetric() == common->symmetric());
    if (!same)
      refuse("{} export: {} and {} are on different grids, the format has one for all linears",
             name, first, tensor.name);
    if (!common) first = tensor.name;
    common = spec;
  }
  if (!common) refuse("{} export: nothing is quantized; export as hf instead", name);
  return *common;
}

std::vector<std::string> unquantized_linears(const ExportModel& model) {
  std::vector<std::string> modules;
  for (const ExportTensor& tensor : model.tensors)
    if (!tensor.quantized() && is_linear(tensor) && tensor.name != "lm_head.weight")
      modules.push_back(module_of(tensor));
  return modules;
}

bool head_is_quantized(const ExportModel& model) {
  return std::any_of(model.tensors.begin(), model.tensors.end(), [](const ExportTensor& tensor) {
    return tensor.name == "lm_head.weight" && tensor.quantized();
  });
}

// Dots of a module's name stand for themselves in a regular expression.
std::string escaped(const std::string& module) {
  std::string out;
  for (char c : module) out += c == '.' ? std::string("\\.") : std::string(1, c);
  return out;
}

bool has_listed_groups(const ExportModel& model) {
  return std::any_of(model.tensors.begin(), model.tensors.end(), [](const ExportTensor& tensor) {
    return tensor.quantized() && tensor.quant.listed_groups;
  });
}

Json gptq_config(const ExportModel& model, const QuantSpec& spec) {
  Json config = {{"quant_method", "gptq"},
                 {"bits", spec.bits},
                 {"group_size", spec.per == Per::group ? spec.group : -1},
                 {"sym", spec.symmetric()},
                 {"desc_act", has_listed_groups(model)},
                 {"checkpoint_format", spec.symmetric() ? "gptq" : "gptq_v2"},
                 {"lm_head", head_is_quantized(model)},
                 {"true_sequential", true},
                 {"damp_percent", 0.1},
                 {"static_groups", false},
                 {"pack_dtype", "int32"},
                 {"meta", {{"quantizer", {fmt::format("{}:{}", kProgram, kVersion)}}}}};
  if (!model.provenance.empty()) config["meta"]["quantized_by"] = model.provenance;
  Json skipped = Json::object();
  for (const std::string& module : unquantized_linears(model))
    skipped["-:^" + escaped(module) + "$"] = Json::object();
  if (!skipped.empty()) config["dynamic"] = skipped;
  return config;
}

Json awq_config(const ExportModel& model, const QuantSpec& spec) {
  if (head_is_quantized(model))
    refuse("AWQ export: lm_head.weight: the head stays unquantized there");
  const std::vector<std::string> skipped = unquantized_linears(model);
  return {{"quant_method", "awq"},
          {"bits", 4},
          {"group_size", spec.per == Per::group ? spec.group : -1},
          {"zero_point", true},
          {"version", "gemm"},
          {"modules_to_not_convert", skipped.empty() ? Json() : Json(skipped)}};
}

std::vector<SafetensorsEntry> entries_of(const ExportTensor& tensor, Method method) {
  const std::string module = module_of(tensor);
  const QuantSpec& spec = *tensor.quant.weight;
  const int64_t N = tensor.shape[0], K = tensor.shape[1], G = spec.groups(K);
  const int64_t p = 32 / spec.bits;
  std::vector<SafetensorsEntry> entries = {
      {module + ".qweight", StoredType::i32,
       method == Method::gptq ? Shape{K / p, N} : Shape{K, N / p}},
      {module + ".qzeros", StoredType::i32, {G, N / p}},
      {module + ".scales", StoredType::f16, {G, N}}};
  if (method == Method::gptq) entries.push_back({module + ".g_idx", StoredType::i32, {K}});
  return entries;
}

void put_zeros(const QuantizedMatrix& m, Method method, const ByteSink& sink) {
  const int64_t N = m.shape[0], G = m.groups();
  // GPTQ v1 (symmetric here) stores each less one.
  const int offset = method == Method::gptq && m.zeros.empty() ? -1 : 0;
  std::vector<int8_t> zeros_NG(size_t(N * G), int8_t(offset)), zeros_GN(zeros_NG.size());
  for (size_t i = 0; i < m.zeros.size(); ++i) zeros_NG[i] = int8_t(m.zeros[i]);
  transpose(zeros_NG.data(), N, G, zeros_GN.data());
  std::vector<int32_t> words(size_t(G * packed_words(N, m.spec.bits)));
  if (method == Method::gptq)
    pack_rows(zeros_GN.data(), G, N, m.spec.bits, words.data());
  else
    pack_interleaved(zeros_GN.data(), G, N, words.data());
  sink(words.data(), words.size() * 4);
}

void put_codes(const QuantizedMatrix& m, Method method, const ByteSink& sink) {
  const int64_t N = m.shape[0], K = m.shape[1];
  std::vector<int8_t> codes_KN(m.codes.size());
  transpose(m.codes.data(), N, K, codes_KN.data());
  std::vector<int32_t> words(size_t(N * K) / size_t(32 / m.spec.bits));
  if (method == Method::gptq)
    pack_columns(codes_KN.data(), K, N, m.spec.bits, words.data());
  else
    pack_interleaved(codes_KN.data(), K, N, words.data());
  sink(words.data(), words.size() * 4);
}

void put(const ExportTensor& tensor, const std::string& part, Method method,
         const std::function<QuantizedMatrix()>& codes, const ByteSink& sink) {
  if (part == "g_idx" && tensor.quant.listed_groups) {
    const QuantizedMatrix m = codes();
    return sink(m.group_of.data(), m.group_of.size() * 4);
  }
  if (part == "g_idx") {
    const int64_t K = tensor.shape[1];
    const QuantSpec& spec = *tensor.quant.weight;
    std::vector<int32_t> group(size_t(K), 0);
    if (spec.per == Per::group)
      for (int64_t k = 0; k < K; ++k) group[size_t(k)] = int32_t(k / spec.group);
    return sink(group.data(), group.size() * 4);
  }
  const QuantizedMatrix m = codes();
  if (part == "qweight") return put_codes(m, method, sink);
  if (part == "qzeros") return put_zeros(m, method, sink);
  std::vector<float> scales_GN(m.scales.size());
  transpose(m.scales.data(), m.shape[0], m.groups(), scales_GN.data());
  put_floats(sink, StoredType::f16, scales_GN.data(), int64_t(scales_GN.size()));
}

void export_packed(const std::string& directory, const ExportModel& model, const ExportFiles& files,
                   const PackedOptions& options, Method method) {
  const char* name = method == Method::gptq ? "GPTQ" : "AWQ";
  check_export(model, name);
  check_output(directory, files);
  const QuantSpec spec = one_spec(model, name, method);
  CodesFormat format;
  format.name = name;
  format.type = options.type;
  format.scale_type = StoredType::f16;
  format.quantization_config =
      method == Method::gptq ? gptq_config(model, spec) : awq_config(model, spec);
  if (method == Method::gptq)
    format.texts["quantize_config.json"] = format.quantization_config.dump(2) + "\n";
  format.entries = [method](const ExportTensor& tensor) { return entries_of(tensor, method); };
  format.put = [method](const ExportTensor& tensor, const std::string& part,
                        const SafetensorsEntry&, const std::function<QuantizedMatrix()>& codes,
                        const ByteSink& sink) { put(tensor, part, method, codes, sink); };
  write_codes_directory(directory, model, files, format, options.max_shard_bytes);
}

}  // namespace

void export_gptq(const std::string& directory, const ExportModel& model, const ExportFiles& files,
                 const PackedOptions& options) {
  export_packed(directory, model, files, options, Method::gptq);
}

void export_awq(const std::string& directory, const ExportModel& model, const ExportFiles& files,
                const PackedOptions& options) {
  export_packed(directory, model, files, options, Method::awq);
}

}  // namespace qat
