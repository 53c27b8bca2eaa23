#include "models/compressed_weights.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <set>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "models/code_packing.h"
#include "models/source_kinds.h"

namespace qat {
namespace {

bool is_linear(const std::string& module) {
  return module == "lm_head" || is_decoder_linear(module);
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
  LinearQuant quant;
};

class ConfigReader {
 public:
  ConfigReader(const Json& json, const std::string& file) : json_(json), file_(file) {}

  std::vector<Group> groups() const {
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
    group.quant.weight = weights({json["weights"], key + ".weights", file_});
    if (const auto at = json.find("input_activations"); at != json.end() && !at->is_null())
      take_activations({*at, key + ".input_activations", file_}, group.quant);
    if (const auto at = json.find("output_activations"); at != json.end() && !at->is_null())
      refuse("{}: quantization_config.{}.output_activations is not read", file_, key);
    return group;
  }

  // One object of arguments: how the weights, or their inputs, are quantized.
  struct Arguments {
    const Json& json;
    std::string key;
    const std::string& file;

    Json value(const char* what, Json otherwise) const {
      const auto at = json.find(what);
      return at == json.end() || at->is_null() ? otherwise : *at;
    }
    [[noreturn]] void wrong(const char* what, const char* why = "") const {
      refuse("{}: quantization_config.{}.{} = {} is not read{}", file, key, what,
             printable(json.value(what, Json()).dump()), why);
    }
    // Bits and symmetry.
    QuantSpec codes() const {
      if (!json.is_object()) refuse("{}: quantization_config.{} is not an object", file, key);
      const Json type = value("type", "int");
      if (type != "int" && type != "float") wrong("type");
      if (json.contains("actorder") && json["actorder"] != nullptr) wrong("actorder");
      const Json bits = value("num_bits", 8u), symmetric = value("symmetric", true);
      if (!bits.is_number_unsigned() || bits < 2u || bits > 8u) wrong("num_bits");
      if (!symmetric.is_boolean()) wrong("symmetric");
      QuantSpec spec;
      spec.bits = bits.get<int>();
      spec.range = symmetric.get<bool>() ? Range::full : Range::asymmetric;
      if (type == "int") return spec;
      if (bits != 8u) wrong("num_bits", " beside type float; 8 is");
      if (!spec.symmetric()) wrong("symmetric", " beside type float; true is");
      spec.form = Form::e4m3;
      spec.range = Range::strict;
      return spec;
    }
  };

  static QuantSpec weights(const Arguments& args) {
    QuantSpec spec = args.codes();
    if (args.value("dynamic", false) != false) args.wrong("dynamic");
    const Json strategy = args.value("strategy", Json());
    if (strategy == "tensor") {
      spec.per = Per::tensor;
    } else if (strategy == "channel") {
      spec.per = Per::row;
    } else if (strategy == "group") {
      const Json size = args.value("group_size", Json());
      if (!size.is_number_unsigned() || size < 1u || size > 1u << 20) args.wrong("group_size");
      spec.per = Per::group;
      spec.group = size.get<int>();
    } else {
      args.wrong("strategy");
    }
    return spec;
  }

  // What vLLM computes (scaled_quant.cu): dynamic, max|x| / 127 a token and codes down to -127,
  // or (max - min) / 255 with a zero point; static, the stored scale, saturating to -128..127.
  // float8: max|x| / 448 a token, or the stored scale, saturating to 448.
  static void take_activations(const Arguments& args, LinearQuant& quant) {
    QuantSpec spec = args.codes();
    const Json dynamic = args.value("dynamic", false), strategy = args.value("strategy", Json());
    if (dynamic == true && strategy == "token") {
      spec.per = Per::row;
      if (spec.symmetric()) spec.range = Range::strict;
    } else if (dynamic == false && strategy == "tensor") {
      spec.per = Per::tensor;
      quant.static_activation = true;
    } else {
      args.wrong(dynamic.is_boolean() ? "strategy" : "dynamic",
                 "; dynamic per token and static per tensor are");
    }
    if (!spec.symmetric()) spec.rule = ScaleRule::min_max;
    quant.activation = spec;
  }

  const Json& json_;
  const std::string& file_;
};

}  // namespace

CompressedWeights::CompressedWeights(const Json& quantization_config, const std::string& file,
                                     std::shared_ptr<const Safetensors> weights)
    : parts_(file, std::move(weights)) {
  const ConfigReader reader(quantization_config, file);
  const std::vector<Group> groups = reader.groups();
  const std::set<std::string> ignored = reader.ignored();
  std::set<std::string> modules;
  for (const SafetensorsTensor& tensor : parts_.weights().tensors())
    if (const auto module = module_of_part(tensor.name)) modules.insert(*module);
  for (const std::string& module : modules) {
    const Group* found = nullptr;
    for (const Group& group : groups)
      if (group.targets.contains(module) || (!found && group.targets.contains("Linear")))
        found = &group;
    if (!is_linear(module) || !found || ignored.contains(module))
      refuse("{}: {} is stored as codes, but quantization_config does not target it", file,
             printable(module));
    add_module(module, *found->quant.weight);
    if (is_decoder_linear(module)) {
      plan_.linears[module] = found->quant;
      if (found->quant.static_activation) check_static_activation(module, *found->quant.activation);
    } else if (found->quant.activation) {
      refuse("{}: quantization_config quantizes the input of {}, which is not computed here", file,
             module);
    }
  }
  for (const SafetensorsTensor& tensor : parts_.weights().tensors()) {
    if (module_of_part(tensor.name) || modules_.contains(tensor.name)) continue;
    tensors_.push_back({tensor.name, tensor.shape});
  }
  for (const auto& [name, module] : modules_) tensors_.push_back({name, module.shape});
}

void CompressedWeights::check_static_activation(const std::string& module,
                                                const QuantSpec& spec) const {
  const auto one_value = [&](const std::string& name, std::initializer_list<StoredType> types) {
    const Shape shape = parts_.get(name).shape.rank() == 0 ? Shape{} : Shape{1};
    parts_.expect(name, shape, types);
  };
  one_value(module + ".input_scale", kScaleTypes);
  if (!spec.symmetric())
    one_value(module + ".input_zero_point", {StoredType::i8, StoredType::f32, StoredType::i32});
  const StaticGrid grid = static_activation(module);
  if (!(grid.scale > 0.0f) || !std::isfinite(grid.scale))
    refuse("{}: {}.input_scale is {}, expected a positive number", parts_.file(), printable(module),
           grid.scale);
  if (grid.zero < float(spec.qmin()) || grid.zero > float(spec.qmax()))
    refuse("{}: {}.input_zero_point is {}, {} bits hold {} to {}", parts_.file(), printable(module),
           grid.zero, spec.bits, spec.qmin(), spec.qmax());
}

StaticGrid CompressedWeights::static_activation(const std::string& path) const {
  StaticGrid grid;
  grid.scale = parts_.floats(parts_.get(path + ".input_scale")).at(0);
  if (const SafetensorsTensor* zero = parts_.find(path + ".input_zero_point")) {
    if (zero->type == StoredType::i8)
      grid.zero = float(int8_t(*parts_.weights().data(*zero)));
    else if (zero->type == StoredType::i32)
      grid.zero = float(parts_.words(*zero).at(0));
    else
      grid.zero = parts_.floats(*zero).at(0);
  }
  return grid;
}

void CompressedWeights::add_module(const std::string& name, const QuantSpec& spec) {
  const std::string& file = parts_.file();
  Module module{spec, {}, parts_.find(name + ".weight_packed") != nullptr};
  if (module.packed) {
    if (spec.form == Form::e4m3)
      refuse("{}: {} has packed float codes; float8 is read as one byte a code", file,
             printable(name));
    if (!packs(spec.bits))
      refuse("{}: {} has packed codes of {} bits; 2, 4 and 8 are read", file, printable(name),
             spec.bits);
    if (parts_.find(name + ".weight"))
      refuse("{}: {} has both weight and weight_packed", file, printable(name));
    const SafetensorsTensor& shape =
        parts_.expect(name + ".weight_shape", {2}, {StoredType::i64, StoredType::i32});
    int64_t sizes[2] = {};
    for (int i = 0; i < 2; ++i)
      std::memcpy(&sizes[i], parts_.weights().data(shape) + size_t(i) * size_of(shape.type),
                  size_of(shape.type));
    if (sizes[0] < 1 || sizes[1] < 1 || sizes[0] > (1 << 24) || sizes[1] > (1 << 24))
      refuse("{}: {}.weight_shape is [{}, {}]", file, printable(name), sizes[0], sizes[1]);
    module.shape = {sizes[0], sizes[1]};
    parts_.expect(name + ".weight_packed", {sizes[0], packed_words(sizes[1], spec.bits)},
                  {StoredType::i32});
  } else {
    const SafetensorsTensor& weight = parts_.get(name + ".weight");
    if (weight.shape.rank() != 2)
      refuse("{}: tensor {}.weight has {} dimensions", file, printable(name), weight.shape.rank());
    module.shape = weight.shape;
    parts_.expect(name + ".weight", module.shape,
                  {spec.form == Form::e4m3 ? StoredType::f8_e4m3 : StoredType::i8});
  }
  const int64_t N = module.shape[0], K = module.shape[1];
  if (spec.per == Per::group && K % spec.group != 0)
    refuse("{}: groups of {} do not divide the {} columns of {}", file, spec.group, K,
           printable(name));
  const int64_t G = spec.groups(K);
  const Shape grid = spec.per == Per::tensor ? Shape{1} : Shape{N, G};
  switch (parts_.expect(name + ".weight_scale", grid, kScaleTypes).type) {
    case StoredType::bf16:
      module.spec.scale_type = ScaleType::bf16;
      break;
    case StoredType::f16:
      module.spec.scale_type = ScaleType::f16;
      break;
    default:
      break;
  }
  if (!spec.symmetric()) {
    if (module.packed && spec.per != Per::tensor)
      parts_.expect(name + ".weight_zero_point", {packed_words(N, spec.bits), G},
                    {StoredType::i32});
    else
      parts_.expect(name + ".weight_zero_point", grid, {StoredType::i8});
  }
  modules_.emplace(name + ".weight", module);
}

QuantizedMatrix CompressedWeights::read(const std::string& weight) const {
  const auto at = modules_.find(weight);
  if (at == modules_.end()) internal_error("{}: {} is not stored as codes", parts_.file(), weight);
  const Module& module = at->second;
  const std::string name = weight.substr(0, weight.size() - std::strlen(".weight"));
  const int64_t N = module.shape[0], K = module.shape[1];
  const int bits = module.spec.bits;
  QuantizedMatrix m;
  m.spec = module.spec;
  m.shape = module.shape;
  m.codes.resize(size_t(N * K));
  if (module.packed)
    unpack_rows(parts_.words(parts_.get(name + ".weight_packed")).data(), N, K, bits,
                m.codes.data());
  else
    std::memcpy(m.codes.data(), parts_.weights().data(parts_.get(weight)), m.codes.size());
  m.scales = parts_.floats(parts_.get(name + ".weight_scale"));
  if (!m.spec.symmetric()) {
    const SafetensorsTensor& zero = parts_.get(name + ".weight_zero_point");
    std::vector<int8_t> zeros(m.scales.size());
    if (zero.type == StoredType::i32)
      unpack_columns(parts_.words(zero).data(), N, m.groups(), bits, zeros.data());
    else
      std::memcpy(zeros.data(), parts_.weights().data(zero), zeros.size());
    m.zeros.assign(zeros.begin(), zeros.end());
  }
  check_matrix(m, parts_.file() + ": " + printable(name));
  check_positive_scales(m, parts_.file() + ": " + printable(name));
  return m;
}

}  // namespace qat
