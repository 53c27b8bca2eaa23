#include "models/packed_weights.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "models/code_packing.h"
#include "models/source_kinds.h"

namespace qat {
namespace {

constexpr const char* kParts[] = {".qweight", ".qzeros", ".scales", ".g_idx"};

std::string module_of_part(const std::string& name) {
  for (const std::string_view part : kParts)
    if (name.ends_with(part)) return name.substr(0, name.size() - part.size());
  return "";
}

}  // namespace

PackedWeights::PackedWeights(const Json& quantization_config, const std::string& file,
                             std::shared_ptr<const Safetensors> weights)
    : parts_(file, std::move(weights)) {
  read_config(quantization_config);
  std::set<std::string> modules;
  for (const SafetensorsTensor& tensor : parts_.weights().tensors()) {
    const std::string module = module_of_part(tensor.name);
    if (module.empty())
      tensors_.push_back({tensor.name, tensor.shape});
    else
      modules.insert(module);
  }
  if (modules.empty())
    refuse("{}: quantization_config is there, but no tensor is stored as codes", file);
  for (const std::string& module : modules) add_module(module);
}

void PackedWeights::read_config(const Json& config) {
  const auto value = [&](const char* key, Json otherwise) {
    const auto at = config.find(key);
    return at == config.end() || at->is_null() ? otherwise : *at;
  };
  const auto wrong = [&](const char* key, const char* expected) {
    refuse("{}: quantization_config.{} is {}, expected {}", parts_.file(), key,
           printable(value(key, Json()).dump()), expected);
  };
  method_ = value("quant_method", "gptq") == "awq" ? Method::awq : Method::gptq;
  const Json bits = value("bits", Json()), group = value("group_size", 128);
  const bool readable = bits == 4 || (method_ == Method::gptq && (bits == 2 || bits == 8));
  if (!readable) wrong("bits", method_ == Method::awq ? "4" : "2, 4 or 8");
  bits_ = bits.get<int>();
  if (!group.is_number_integer() || group < -1 || group == 0 || group > 1 << 20)
    wrong("group_size", "-1 or the columns of a group");
  group_ = group.get<int64_t>();
  if (method_ == Method::awq) {
    Json version = value("version", "gemm");
    if (version != "gemm" && version != "GEMM") wrong("version", "gemm");
    return;
  }
  // Files older than the key are v1.
  const Json format = value("checkpoint_format", value("format", "gptq"));
  if (format != "gptq" && format != "gptq_v2") wrong("checkpoint_format", "gptq or gptq_v2");
  zero_offset_ = format == "gptq" ? 1 : 0;
  if (const Json dynamic = value("dynamic", Json::object()); dynamic.is_object())
    for (const auto& [pattern, settings] : dynamic.items())
      if (!pattern.starts_with("-") && settings.is_object() &&
          (settings.contains("bits") || settings.contains("group_size")))
        refuse(
            "{}: quantization_config.dynamic changes bits or group_size for {}; only one of "
            "each for all linears is read",
            parts_.file(), printable(pattern));
}

void PackedWeights::add_module(const std::string& name) {
  if (name != "lm_head" && !is_decoder_linear(name))
    refuse("{}: {} is stored as codes, but is no linear of a decoder", parts_.file(),
           printable(name));
  if (parts_.find(name + ".weight"))
    refuse("{}: {} has both weight and qweight", parts_.file(), printable(name));
  const SafetensorsTensor& qweight = parts_.get(name + ".qweight");
  if (qweight.shape.rank() != 2)
    refuse("{}: tensor {}.qweight has {} dimensions", parts_.file(), printable(name),
           qweight.shape.rank());
  const int64_t in_word = 32 / bits_;
  Module m;
  m.shape = method_ == Method::gptq ? Shape{qweight.shape[1], qweight.shape[0] * in_word}
                                    : Shape{qweight.shape[1] * in_word, qweight.shape[0]};
  parts_.expect(name + ".qweight", qweight.shape, {StoredType::i32});
  const int64_t N = m.shape[0], K = m.shape[1];
  if (N < 1 || K < 1 || N > (1 << 24) || K > (1 << 24) || N % in_word != 0)
    refuse("{}: {}.qweight holds {} outputs of {} inputs; expected outputs in multiples of {}",
           parts_.file(), printable(name), N, K, in_word);
  m.spec.bits = bits_;
  m.spec.scale_type = ScaleType::f16;
  m.spec.range = Range::full;
  if (group_ > 0 && group_ <= K) {
    m.spec.per = Per::group;
    m.spec.group = int(group_);
  }
  take_groups(name, m);
  const int64_t G = m.spec.per == Per::group ? (K + m.spec.group - 1) / m.spec.group : 1;
  parts_.expect(name + ".scales", {G, N}, kScaleTypes);
  const SafetensorsTensor& qzeros =
      parts_.expect(name + ".qzeros", {G, N / in_word}, {StoredType::i32});
  // Symmetric is what has the middle of the codes for every zero point, whatever `sym` says.
  std::vector<int8_t> zeros(size_t(G * N));
  unpack_rows(parts_.words(qzeros).data(), G, N, bits_, zeros.data());
  if (std::any_of(zeros.begin(), zeros.end(), [&](int8_t z) { return z + zero_offset_ != 0; }))
    m.spec.range = Range::asymmetric;
  const bool even = m.spec.per != Per::group || K % m.spec.group == 0;
  if ((m.g_idx.empty() || even) && is_decoder_linear(name))
    plan_.linears[name] = {.weight = m.spec, .activation = {}};
  tensors_.push_back({name + ".weight", m.shape});
  modules_.emplace(name + ".weight", std::move(m));
}

// The groups of a GPTQ file are what g_idx says: runs of `group` columns, or, where the columns
// were taken in the order of their activations (desc_act), any columns at all. A last group that
// is shorter than the others makes no even grid: such a matrix is read as values.
void PackedWeights::take_groups(const std::string& name, Module& m) const {
  const int64_t K = m.shape[1], group = m.spec.per == Per::group ? m.spec.group : K;
  const int64_t G = (K + group - 1) / group;
  if (method_ == Method::awq && K % group != 0)
    refuse("{}: groups of {} do not divide the {} columns of {}", parts_.file(), group, K,
           printable(name));
  std::vector<int32_t> g_idx(static_cast<size_t>(K));
  for (int64_t k = 0; k < K; ++k) g_idx[size_t(k)] = int32_t(k / group);
  if (!parts_.find(name + ".g_idx")) {
    if (K % group != 0) m.g_idx = std::move(g_idx);
    return;
  }
  std::vector<int32_t> stored =
      parts_.words(parts_.expect(name + ".g_idx", {K}, {StoredType::i32}));
  for (int32_t g : stored)
    if (g < 0 || g >= G)
      refuse("{}: {}.g_idx holds group {}, there are {}", parts_.file(), printable(name), g, G);
  if (K % group != 0 || stored != g_idx) m.g_idx = std::move(stored);
}

QuantizedMatrix PackedWeights::unpacked(const std::string& name, const Module& m) const {
  const int64_t N = m.shape[0], K = m.shape[1];
  const SafetensorsTensor& scales = parts_.get(name + ".scales");
  const int64_t G = scales.shape[0];
  std::vector<int8_t> codes_KN(size_t(K * N)), zeros_GN(size_t(G * N));
  const std::vector<int32_t> words = parts_.words(parts_.get(name + ".qweight"));
  const std::vector<int32_t> zero_words = parts_.words(parts_.get(name + ".qzeros"));
  if (method_ == Method::gptq) {
    unpack_columns(words.data(), K, N, bits_, codes_KN.data());
    unpack_rows(zero_words.data(), G, N, bits_, zeros_GN.data());
  } else {
    unpack_interleaved(words.data(), K, N, codes_KN.data());
    unpack_interleaved(zero_words.data(), G, N, zeros_GN.data());
  }
  const std::vector<float> scales_GN = parts_.floats(scales);
  QuantizedMatrix q;
  q.spec = m.spec;
  q.shape = m.shape;
  q.codes.resize(codes_KN.size());
  transpose(codes_KN.data(), K, N, q.codes.data());
  q.scales.resize(scales_GN.size());
  transpose(scales_GN.data(), G, N, q.scales.data());
  if (m.spec.symmetric()) return q;
  std::vector<int8_t> zeros_NG(zeros_GN.size());
  transpose(zeros_GN.data(), G, N, zeros_NG.data());
  for (int8_t zero : zeros_NG) q.zeros.push_back(float(zero + zero_offset_));
  return q;
}

QuantizedMatrix PackedWeights::read(const std::string& weight) const {
  const auto at = modules_.find(weight);
  if (at == modules_.end()) internal_error("{}: {} is not stored as codes", parts_.file(), weight);
  const std::string name = weight.substr(0, weight.size() - std::string_view(".weight").size());
  const Module& m = at->second;
  if (!m.g_idx.empty() && (m.spec.per != Per::group || m.shape[1] % m.spec.group != 0))
    refuse(
        "{}: {} columns of {} do not divide into groups of {}; such a matrix is read as values, "
        "not as codes",
        parts_.file(), m.shape[1], name, m.spec.group);
  QuantizedMatrix q = unpacked(name, m);
  q.group_of = m.g_idx;
  check_matrix(q, parts_.file() + ": " + name);
  check_positive_scales(q, parts_.file() + ": " + name);
  return q;
}

void PackedWeights::read_values(const std::string& weight, float* out) const {
  const auto at = modules_.find(weight);
  if (at == modules_.end()) internal_error("{}: {} is not stored as codes", parts_.file(), weight);
  const Module& m = at->second;
  if (m.g_idx.empty()) return dequantize(read(weight), out);
  const std::string name = weight.substr(0, weight.size() - std::string_view(".weight").size());
  const QuantizedMatrix q = unpacked(name, m);
  const int64_t N = m.shape[0], K = m.shape[1], G = int64_t(q.scales.size()) / N;
  for (float scale : q.scales)
    if (!(scale > 0.0f) || !std::isfinite(scale))
      refuse("{}: {}: scale {}, expected positive numbers", parts_.file(), name, scale);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t k = 0; k < K; ++k) {
      const size_t group = size_t(n * G + m.g_idx[size_t(k)]);
      const float zero = q.zeros.empty() ? 0.0f : q.zeros[group];
      out[n * K + k] = (float(q.codes[size_t(n * K + k)]) - zero) * q.scales[group];
    }
}

}  // namespace qat
