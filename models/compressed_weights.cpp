#include "models/compressed_weights.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "models/code_packing.h"
#include "models/source_kinds.h"

namespace qat {
namespace {

constexpr const char* kLinears[] = {".self_attn.q_proj", ".self_attn.k_proj", ".self_attn.v_proj",
                                    ".self_attn.o_proj", ".mlp.gate_proj",    ".mlp.up_proj",
                                    ".mlp.down_proj"};

bool is_linear(const std::string& module) {
  return module == "lm_head" || std::any_of(std::begin(kLinears), std::end(kLinears),
                                            [&](const char* end) { return module.ends_with(end); });
}

// The module a stored tensor belongs to, if it is part of a quantized linear.
constexpr const char* kParts[] = {".weight_packed", ".weight_scale", ".weight_zero_point",
                                  ".weight_shape",  ".input_scale",  ".input_zero_point"};
std::optional<std::string> module_of_part(const std::string& name) {
  for (const std::string_view part : kParts)
    if (name.ends_with(part)) return name.substr(0, name.size() - part.size());
  return std::nullopt;
}

struct Group {
  std::set<std::string> targets;
  QuantSpec spec;
};

class ConfigReader {
 public:
  ConfigReader(const Json& json, const std::string& file) : json_(json), file_(file) {}

  std::vector<Group> groups() const {
    if (!json_.is_object() || json_.value("quant_method", Json()) != "compressed-tensors")
      refuse(
          "{}: quantization_config is not of compressed-tensors, the only quantized weights read",
          file_);
    if (json_.contains("kv_cache_scheme") && !json_["kv_cache_scheme"].is_null())
      refuse("{}: quantization_config.kv_cache_scheme is not read", file_);
    const auto at = json_.find("config_groups");
    if (at == json_.end() || !at->is_object() || at->empty())
      refuse("{}: quantization_config.config_groups is missing", file_);
    std::vector<Group> groups;
    for (const auto& [name, group] : at->items()) groups.push_back(this->group(name, group));
    return groups;
  }

  std::set<std::string> ignored() const {
    const auto at = json_.find("ignore");
    if (at == json_.end() || at->is_null()) return {};
    return names("ignore", *at);
  }

 private:
  std::set<std::string> names(const std::string& key, const Json& list) const {
    std::set<std::string> result;
    if (!list.is_array()) refuse("{}: quantization_config.{} is not a list", file_, key);
    for (const Json& name : list) {
      if (!name.is_string())
        refuse("{}: quantization_config.{} holds {}", file_, key, printable(name.dump()));
      const auto text = name.get<std::string>();
      if (text.starts_with("re:"))
        refuse("{}: quantization_config.{} has the regular expression {}; only names are read",
               file_, key, printable(text));
      result.insert(text);
    }
    return result;
  }

  Group group(const std::string& name, const Json& json) const {
    const std::string key = "config_groups." + printable(name);
    if (!json.is_object() || !json.contains("targets") || !json.contains("weights") ||
        !json["weights"].is_object())
      refuse("{}: quantization_config.{} needs targets and weights", file_, key);
    Group group{names(key + ".targets", json["targets"]), {}};
    const Json& args = json["weights"];
    const auto wrong = [&](const char* what) {
      refuse("{}: quantization_config.{}.weights.{} = {} is not read", file_, key, what,
             printable(args.value(what, Json()).dump()));
    };
    if (args.value("type", Json("int")) != "int") wrong("type");
    if (args.contains("dynamic") && args["dynamic"] != false) wrong("dynamic");
    if (args.contains("actorder") && args["actorder"] != nullptr) wrong("actorder");
    const Json bits = args.value("num_bits", Json(8));
    if (!bits.is_number_unsigned() || bits < 2 || bits > 8) wrong("num_bits");
    group.spec.bits = bits.get<int>();
    const Json symmetric = args.value("symmetric", Json(true));
    if (!symmetric.is_boolean()) wrong("symmetric");
    group.spec.range = symmetric.get<bool>() ? Range::full : Range::asymmetric;
    const Json strategy = args.value("strategy", Json());
    if (strategy == "tensor") {
      group.spec.per = Per::tensor;
    } else if (strategy == "channel") {
      group.spec.per = Per::row;
    } else if (strategy == "group") {
      const Json size = args.value("group_size", Json());
      if (!size.is_number_unsigned() || size < 1 || size > (1 << 20)) wrong("group_size");
      group.spec.per = Per::group;
      group.spec.group = size.get<int>();
    } else {
      wrong("strategy");
    }
    return group;
  }

  const Json& json_;
  const std::string& file_;
};

}  // namespace

CompressedWeights::CompressedWeights(const Json& quantization_config, const std::string& file,
                                     std::shared_ptr<const Safetensors> weights)
    : file_(file), weights_(std::move(weights)) {
  const ConfigReader reader(quantization_config, file);
  const std::vector<Group> groups = reader.groups();
  const std::set<std::string> ignored = reader.ignored();
  std::set<std::string> modules;
  for (const SafetensorsTensor& tensor : weights_->tensors())
    if (const auto module = module_of_part(tensor.name)) modules.insert(*module);
  for (const std::string& module : modules) {
    const Group* found = nullptr;
    for (const Group& group : groups)
      if (group.targets.contains(module) || (!found && group.targets.contains("Linear")))
        found = &group;
    if (!is_linear(module) || !found || ignored.contains(module))
      refuse("{}: {} is stored as codes, but quantization_config does not target it", file_,
             printable(module));
    add_module(module, found->spec);
  }
  for (const SafetensorsTensor& tensor : weights_->tensors()) {
    if (module_of_part(tensor.name) || modules_.contains(tensor.name)) continue;
    tensors_.push_back({tensor.name, tensor.shape});
  }
  for (const auto& [name, module] : modules_) tensors_.push_back({name, module.shape});
}

const SafetensorsTensor& CompressedWeights::tensor(const std::string& name) const {
  const SafetensorsTensor* found = weights_->find(name);
  if (!found) refuse("{}: tensor {} is missing", file_, printable(name));
  return *found;
}

void CompressedWeights::add_module(const std::string& name, const QuantSpec& spec) {
  Module module{spec, {}, weights_->find(name + ".weight_packed") != nullptr};
  const auto expect = [&](const SafetensorsTensor& tensor, const Shape& shape,
                          std::initializer_list<StoredType> types) {
    if (tensor.shape != shape)
      refuse("{}: tensor {} has shape {}, expected {}", file_, printable(tensor.name),
             to_text(tensor.shape), to_text(shape));
    if (std::find(types.begin(), types.end(), tensor.type) == types.end())
      refuse("{}: tensor {} has dtype {}, which is not expected there", file_,
             printable(tensor.name), name_of(tensor.type));
  };
  if (module.packed) {
    if (!packs(spec.bits))
      refuse("{}: {} has packed codes of {} bits; 2, 4 and 8 are read", file_, printable(name),
             spec.bits);
    if (weights_->find(name + ".weight"))
      refuse("{}: {} has both weight and weight_packed", file_, printable(name));
    const SafetensorsTensor& shape = tensor(name + ".weight_shape");
    expect(shape, {2}, {StoredType::i64, StoredType::i32});
    int64_t sizes[2] = {};
    for (int i = 0; i < 2; ++i)
      std::memcpy(&sizes[i], weights_->data(shape) + size_t(i) * size_of(shape.type),
                  size_of(shape.type));
    if (sizes[0] < 1 || sizes[1] < 1 || sizes[0] > (1 << 24) || sizes[1] > (1 << 24))
      refuse("{}: {}.weight_shape is [{}, {}]", file_, printable(name), sizes[0], sizes[1]);
    module.shape = {sizes[0], sizes[1]};
    expect(tensor(name + ".weight_packed"), {sizes[0], packed_words(sizes[1], spec.bits)},
           {StoredType::i32});
  } else {
    const SafetensorsTensor& weight = tensor(name + ".weight");
    if (weight.shape.rank() != 2)
      refuse("{}: tensor {}.weight has {} dimensions", file_, printable(name), weight.shape.rank());
    module.shape = weight.shape;
    expect(weight, module.shape, {StoredType::i8});
  }
  const int64_t N = module.shape[0], K = module.shape[1];
  if (spec.per == Per::group && K % spec.group != 0)
    refuse("{}: groups of {} do not divide the {} columns of {}", file_, spec.group, K,
           printable(name));
  const int64_t G = spec.groups(K);
  expect(tensor(name + ".weight_scale"), spec.per == Per::tensor ? Shape{1} : Shape{N, G},
         {StoredType::f32, StoredType::f16, StoredType::bf16});
  if (!spec.symmetric()) {
    const SafetensorsTensor& zero = tensor(name + ".weight_zero_point");
    if (module.packed && spec.per != Per::tensor)
      expect(zero, {packed_words(N, spec.bits), G}, {StoredType::i32});
    else
      expect(zero, spec.per == Per::tensor ? Shape{1} : Shape{N, G}, {StoredType::i8});
  }
  modules_.emplace(name + ".weight", module);
}

QuantizedMatrix CompressedWeights::read(const std::string& weight) const {
  const auto at = modules_.find(weight);
  if (at == modules_.end()) internal_error("{}: {} is not stored as codes", file_, weight);
  const Module& module = at->second;
  const std::string name = weight.substr(0, weight.size() - std::strlen(".weight"));
  const int64_t N = module.shape[0], K = module.shape[1];
  const int bits = module.spec.bits;
  QuantizedMatrix m;
  m.spec = module.spec;
  m.shape = module.shape;
  m.codes.resize(size_t(N * K));
  // Words are copied out: stored data need not be aligned.
  const auto words_of = [&](const SafetensorsTensor& tensor) {
    std::vector<int32_t> words(size_t(tensor.shape.count()));
    std::memcpy(words.data(), weights_->data(tensor), words.size() * 4);
    return words;
  };
  if (module.packed)
    unpack_rows(words_of(tensor(name + ".weight_packed")).data(), N, K, bits, m.codes.data());
  else
    std::memcpy(m.codes.data(), weights_->data(tensor(weight)), m.codes.size());
  const SafetensorsTensor& scale = tensor(name + ".weight_scale");
  m.scales.resize(size_t(scale.shape.count()));
  weights_->read_floats(scale, 0, scale.shape.count(), m.scales.data());
  if (!m.spec.symmetric()) {
    const SafetensorsTensor& zero = tensor(name + ".weight_zero_point");
    std::vector<int8_t> zeros(m.scales.size());
    if (zero.type == StoredType::i32)
      unpack_columns(words_of(zero).data(), N, m.groups(), bits, zeros.data());
    else
      std::memcpy(zeros.data(), weights_->data(zero), zeros.size());
    m.zeros.assign(zeros.begin(), zeros.end());
  }
  check_matrix(m, file_ + ": " + printable(name));
  check_positive_scales(m, file_ + ": " + printable(name));
  return m;
}

std::unique_ptr<CompressedWeights> open_compressed_weights(const std::string& directory) {
  const std::string file = directory + "/config.json";
  const Json json = read_json_file(file, {.bytes = 16u << 20, .depth = 32, .values = 200'000});
  if (!json.is_object() || !json.contains("quantization_config"))
    refuse("{}: no quantization_config", file);
  return std::make_unique<CompressedWeights>(json["quantization_config"], file,
                                             Safetensors::open_directory(directory));
}

}  // namespace qat
