#include "models/export/peft.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>

#include "engine/core/error.h"
#include "engine/io/atomic_file.h"
#include "engine/io/json.h"
#include "engine/io/printable.h"
#include "engine/io/safetensors.h"
#include "models/adapter.h"
#include "models/decoder.h"
#include "models/export/staged_directory.h"
#include "models/export/verify.h"
#include "models/source_kinds.h"

namespace qat {
namespace {

constexpr const char* kPrefix = "base_model.model.";
constexpr const char* kConfig = "/adapter_config.json";
constexpr const char* kTensors = "/adapter_model.safetensors";

std::string last_part(const std::string& path) {
  return path.substr(path.rfind('.') + 1);
}

/// True if a PEFT name stands for the module: the whole path, or its end after a dot.
bool names(const std::string& name, const std::string& path) {
  return path == name || path.ends_with("." + name);
}

/// Names that select exactly these linears: q_proj where every q_proj is meant, else whole paths.
std::vector<std::string> target_modules(const AdapterPlan& plan, const ModelConfig& config) {
  std::map<std::string, int64_t> all, chosen;
  for (const std::string& path : decoder_linears(config)) {
    ++all[last_part(path)];
    chosen[last_part(path)] += int64_t(plan.linears.count(path));
  }
  std::set<std::string> targets;
  for (const auto& [path, adapter] : plan.linears) {
    const std::string last = last_part(path);
    targets.insert(chosen[last] == all[last] ? last : path);
  }
  return {targets.begin(), targets.end()};
}

Json config_of(const AdapterPlan& plan, const ModelConfig& config, const std::string& base) {
  const LinearAdapter& first = plan.linears.begin()->second;
  Json json = {{"peft_type", "LORA"},
               {"task_type", "CAUSAL_LM"},
               {"base_model_name_or_path", base},
               {"inference_mode", true},
               {"r", first.rank},
               {"lora_alpha", first.alpha},
               {"lora_dropout", plan.dropout},
               {"target_modules", target_modules(plan, config)},
               {"bias", "none"},
               {"fan_in_fan_out", false},
               {"modules_to_save", nullptr},
               {"use_rslora", first.scaling == AdapterScaling::root_of_rank},
               {"use_dora", first.kind == AdapterKind::dora}};
  Json ranks = Json::object(), alphas = Json::object();
  for (const auto& [path, adapter] : plan.linears) {
    if (adapter.rank != first.rank) ranks[path] = adapter.rank;
    if (adapter.alpha != first.alpha) alphas[path] = adapter.alpha;
  }
  json["rank_pattern"] = ranks;
  json["alpha_pattern"] = alphas;
  return json;
}

StoredType stored_type(DType dtype) {
  return dtype == DType::bf16 ? StoredType::bf16 : StoredType::f32;
}

std::string find_difference(const std::string& directory, const AdapterPlan& plan,
                            const ModelConfig& config, const Store& store) {
  const auto linears = read_peft_plan(directory, config);
  for (const auto& [path, adapter] : plan.linears) {
    const auto found = linears.find(path);
    if (found == linears.end()) return path + ": missing";
    if (found->second.rank != adapter.rank || found->second.scale() != adapter.scale())
      return path + ": rank or scale differ";
  }
  const auto file = Safetensors::open_file(directory + kTensors);
  for (const SourceTensor& tensor : adapter_tensors(plan, config)) {
    const SafetensorsTensor* found = file->find(kPrefix + tensor.name);
    const View view = store.get(tensor.name);
    if (!found || found->bytes != view.bytes() ||
        std::memcmp(file->data(*found), view.data, view.bytes()) != 0)
      return tensor.name + ": stored values differ";
  }
  return "";
}

bool flag_at(const Json& json, const char* key, const std::string& file) {
  const Json value = json.value(key, Json());
  if (!value.is_null() && !value.is_boolean())
    refuse("{}: {}: expected true or false, got {}", file, key, printable(value.dump()));
  return value == true;
}

/// What stands in the config for keys that would change the mathematics.
void check_config_keys(const Json& json, const std::string& file) {
  if (!json.is_object()) refuse("{}: expected a JSON object, got {}", file, json.type_name());
  const auto refuse_key = [&](const char* key, const Json& got, const char* expected) {
    refuse("{}: {}: expected {}, got {}; only LoRA, rsLoRA and DoRA of linears are read", file, key,
           expected, printable(got.dump()));
  };
  if (json.value("peft_type", Json()) != "LORA")
    refuse_key("peft_type", json.value("peft_type", Json()), "LORA");
  if (const Json bias = json.value("bias", Json("none")); bias != "none")
    refuse_key("bias", bias, "none");
  for (const char* key : {"fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora"})
    if (const Json value = json.value(key, Json(false)); !value.is_null() && value != false)
      refuse_key(key, value, "false");
  for (const char* key :
       {"modules_to_save", "layer_replication", "megatron_config", "trainable_token_indices",
        "target_parameters", "alora_invocation_tokens"})
    if (const Json value = json.value(key, Json()); !value.is_null() && !value.empty())
      refuse_key(key, value, "null");
}

double number_at(const Json& json, const std::string& key, const std::string& file) {
  if (!json.contains(key) || !json.at(key).is_number())
    refuse("{}: {}: expected a number", file, key);
  return json.at(key);
}

/// The entry of alpha_pattern that names the module, else the fallback.
double by_pattern(const Json& json, const char* key, const std::string& path, double fallback) {
  const Json patterns = json.value(key, Json::object());
  if (!patterns.is_object()) return fallback;
  for (const auto& [name, value] : patterns.items())
    if (names(name.starts_with("^") ? name.substr(1) : name, path) && value.is_number())
      return value;
  return fallback;
}

/// The linear and the part that a tensor name stands for; the part is empty for foreign tensors.
std::pair<std::string, std::string> split(const std::string& tensor) {
  if (!tensor.starts_with(kPrefix)) return {};
  const std::string name = tensor.substr(std::strlen(kPrefix));
  for (const char* part : {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"})
    if (name.ends_with(std::string(".") + part))
      return {name.substr(0, name.size() - std::strlen(part) - 1), part};
  return {};
}

}  // namespace

void export_peft(const std::string& directory, const AdapterPlan& plan, const ModelConfig& config,
                 const std::string& base, const Store& store) {
  if (plan.linears.empty()) internal_error("peft export without an adapter");
  StagedDirectory staged(directory);
  std::vector<SafetensorsEntry> entries;
  for (const SourceTensor& tensor : adapter_tensors(plan, config))
    entries.push_back(
        {kPrefix + tensor.name, stored_type(store.get(tensor.name).dtype), tensor.shape});
  write_safetensors(staged.path() + kTensors, entries,
                    [&](const SafetensorsEntry& entry, const ByteSink& sink) {
                      const View view = store.get(entry.name.substr(std::strlen(kPrefix)));
                      sink(view.data, view.bytes());
                    });
  write_file_atomically(staged.path() + kConfig, config_of(plan, config, base).dump(2) + "\n");
  verify_or_keep(staged, [&] { return find_difference(staged.path(), plan, config, store); });
  staged.commit();
}

std::map<std::string, LinearAdapter> read_peft_plan(const std::string& directory,
                                                    const ModelConfig& config) {
  namespace fs = std::filesystem;
  const std::string file = directory + kConfig;
  if (!fs::exists(file))
    refuse("{}: expected a PEFT directory with adapter_config.json and adapter_model.safetensors",
           directory);
  const Json json = read_json_file(file);
  check_config_keys(json, file);
  LinearAdapter common;
  common.rank = int64_t(number_at(json, "r", file));
  common.alpha = number_at(json, "lora_alpha", file);
  if (common.alpha <= 0.0) refuse("{}: lora_alpha: expected a number above 0", file);
  if (flag_at(json, "use_rslora", file)) common.scaling = AdapterScaling::root_of_rank;
  if (flag_at(json, "use_dora", file)) common.kind = AdapterKind::dora;

  const std::vector<std::string> known = decoder_linears(config);
  const auto tensors = Safetensors::open_file(directory + kTensors);
  std::map<std::string, LinearAdapter> linears;
  for (const SafetensorsTensor& tensor : tensors->tensors()) {
    const auto [path, part] = split(tensor.name);
    if (part.empty() || std::find(known.begin(), known.end(), path) == known.end())
      refuse("{}{}: tensor {} belongs to no linear of this {} model", directory, kTensors,
             printable(tensor.name), config.architecture);
    if (part != "lora_A.weight") continue;
    LinearAdapter adapter = common;
    adapter.rank = tensor.shape.rows();
    adapter.alpha = by_pattern(json, "alpha_pattern", path, common.alpha);
    linears[path] = adapter;
  }
  if (linears.empty()) refuse("{}{}: holds no lora_A.weight", directory, kTensors);
  AdapterPlan plan;
  plan.linears = linears;
  size_t found = 0;
  for (const SourceTensor& wanted : adapter_tensors(plan, config)) {
    const SafetensorsTensor* tensor = tensors->find(kPrefix + wanted.name);
    if (!tensor || tensor->shape.count() != wanted.shape.count() ||
        (wanted.shape.rank() == 2 && tensor->shape != wanted.shape))
      refuse("{}{}: tensor {}{} is {}; expected {}", directory, kTensors, kPrefix, wanted.name,
             tensor ? to_text(tensor->shape) : "missing", to_text(wanted.shape));
    ++found;
  }
  if (found != tensors->tensors().size())
    refuse(
        "{}{}: {} tensors, expected {}: some modules have magnitudes or factors without the rest",
        directory, kTensors, tensors->tensors().size(), found);
  return linears;
}

void load_peft(const std::string& directory, const AdapterPlan& plan, const ModelConfig& config,
               Store& store, const KernelTable& kernels, Stream& stream) {
  const auto file = Safetensors::open_file(directory + kTensors);
  std::vector<float> values;
  for (const SourceTensor& wanted : adapter_tensors(plan, config)) {
    const SafetensorsTensor* tensor = file->find(kPrefix + wanted.name);
    values.resize(size_t(wanted.shape.count()));
    file->read_floats(*tensor, 0, wanted.shape.count(), values.data());
    check_finite(directory + kTensors, wanted.name, values.data(), wanted.shape.count());
    const DType dtype = wanted.shape.rank() == 2 ? plan.dtype : DType::f32;
    kernels.cast.run(
        {ConstView{reinterpret_cast<const std::byte*>(values.data()), wanted.shape, DType::f32},
         store.make(wanted.name, wanted.shape, dtype, Category::masters)},
        stream);
  }
}

}  // namespace qat
