#include "recipes/run/inspect.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "engine/core/error.h"
#include "engine/io/gguf.h"
#include "engine/io/gguf_blocks.h"
#include "engine/io/mapped_file.h"
#include "engine/io/printable.h"
#include "engine/io/safetensors.h"
#include "engine/train/checkpoint.h"
#include "engine/train/checkpoint_format.h"
#include "engine/train/run_directory.h"
#include "kernels/float_types.h"
#include "models/families.h"
#include "models/source.h"
#include "models/stored_codes.h"
#include "recipes/run/auto_bits.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/quant_summary.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

Inspection::File checksummed(const std::string& path) {
  constexpr size_t kPiece = size_t{64} << 20;
  const MappedFile file = MappedFile::open(path);
  checkpoint_format::Checksum checksum;
  for (size_t at = 0; at < file.size(); at += kPiece) {
    const size_t count = std::min(kPiece, file.size() - at);
    file.check_unchanged();
    checksum.add(file.data() + at, count);
    file.release(at, count);
  }
  return {path, file.size(), checksum.text()};
}

// Refuses NaN and infinity in what can be read as numbers.
void check_values(const Safetensors& file, const SafetensorsTensor& tensor) {
  if (tensor.type != StoredType::f32 && tensor.type != StoredType::f16 &&
      tensor.type != StoredType::bf16)
    return;
  constexpr int64_t kPiece = 1 << 20;
  std::vector<float> values;
  for (int64_t at = 0; at < tensor.shape.count(); at += kPiece) {
    values.resize(size_t(std::min(kPiece, tensor.shape.count() - at)));
    file.read_floats(tensor, at, int64_t(values.size()), values.data());
    for (size_t i = 0; i < values.size(); ++i)
      if (!std::isfinite(values[i]))
        refuse("{}: tensor {} holds {} at element {}; the weights are damaged",
               file.files()[tensor.file], printable(tensor.name), values[i], at + int64_t(i));
  }
  file.release(tensor);
}

void add_files(const std::vector<std::string>& paths, Inspection& result) {
  for (const std::string& path : paths) result.files.push_back(checksummed(path));
}

Inspection inspect_safetensors(const std::string& path) {
  const auto file = Safetensors::open_file(path);
  Inspection result;
  result.kind = "safetensors file";
  for (const SafetensorsTensor& tensor : file->tensors()) {
    check_values(*file, tensor);
    result.tensors.push_back({tensor.name, tensor.shape, name_of(tensor.type), tensor.bytes});
  }
  for (const auto& [key, value] : file->metadata()) result.metadata[key] = value;
  add_files({path}, result);
  return result;
}

OrderedJson metadata_value(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> OrderedJson {
        using T = std::decay_t<decltype(v)>;
        constexpr bool list = !std::is_same_v<T, std::string> && !std::is_arithmetic_v<T>;
        if constexpr (list)
          return fmt::format("[{} values]", v.size());
        else
          return v;
      },
      value);
}

Inspection inspect_gguf(const std::string& path) {
  const auto file = GgufFile::open(path);
  Inspection result;
  result.kind = "GGUF file";
  std::vector<float> row;
  for (const GgufTensor& tensor : file->tensors()) {
    result.tensors.push_back(
        {tensor.name, tensor.shape, gguf_type_name(tensor.type), tensor.bytes});
    const GgufBlock* block = gguf_block(tensor.type);
    if (!block || !block->decodable) continue;
    row.resize(size_t(tensor.shape.cols()));
    for (int64_t r = 0; r < tensor.shape.rows(); ++r) {
      file->read_rows(tensor, r, 1, row.data());
      for (float value : row)
        if (!std::isfinite(value))
          refuse("{}: tensor {} holds {} in row {}; the weights are damaged", path,
                 printable(tensor.name), value, r);
    }
  }
  for (const auto& [key, value] : file->metadata()) result.metadata[key] = metadata_value(value);
  std::map<std::string, int64_t> types;
  for (const InspectedTensor& tensor : result.tensors) ++types[tensor.stored];
  result.quantization = OrderedJson::object();
  for (const auto& [type, count] : types) result.quantization["tensors"][type] = count;
  if (const std::string* architecture = file->string("general.architecture"))
    result.facts.emplace_back("architecture", printable(*architecture));
  if (const std::string* name = file->string("general.name"))
    result.facts.emplace_back("name", printable(*name));
  if (file->files().size() > 1)
    result.facts.emplace_back("split", fmt::format("{} files", file->files().size()));
  add_files(file->files(), result);
  return result;
}

// The bytes of everything stored under a module's name: codes, scales, zero points.
uint64_t bytes_of_module(const Safetensors& file, const std::string& module) {
  uint64_t bytes = 0;
  for (const SafetensorsTensor& tensor : file.tensors())
    if (tensor.name.starts_with(module + ".") && tensor.name != module + ".bias")
      bytes += tensor.bytes;
  return bytes;
}

void add_codes(const StoredCodes& codes, const Safetensors& weights, Inspection& result) {
  std::vector<float> values;
  for (const SourceTensor& tensor : codes.tensors()) {
    if (!codes.is_quantized(tensor.name)) {
      const SafetensorsTensor& stored = *weights.find(tensor.name);
      check_values(weights, stored);
      result.tensors.push_back({tensor.name, tensor.shape, name_of(stored.type), stored.bytes});
      continue;
    }
    const std::string module =
        tensor.name.substr(0, tensor.name.size() - std::string_view(".weight").size());
    std::string grid = "codes in scattered groups";
    if (const auto found = codes.plan().linears.find(module); found != codes.plan().linears.end()) {
      grid = grid_text(codes.read(tensor.name).spec, "channel");
      if (found->second.activation)
        grid += fmt::format(", {}activations {}", found->second.static_activation ? "static " : "",
                            grid_text(*found->second.activation, "token"));
    } else {
      values.resize(size_t(tensor.shape.count()));
      codes.read_values(tensor.name, values.data());
    }
    result.tensors.push_back({tensor.name, tensor.shape, grid, bytes_of_module(weights, module)});
  }
}

Inspection inspect_huggingface(const std::string& path) {
  const auto source = ModelSource::open(path);  // every tensor there, with its shape
  const auto weights = Safetensors::open_directory(path);
  const Json config = read_json_file(path + "/config.json");
  Inspection result;
  result.kind = "Hugging Face directory";
  result.facts.emplace_back("architecture", source->config().architecture);
  if (const auto by = config.find("quantized_by"); by != config.end() && by->is_string())
    result.facts.emplace_back("quantized by", printable(by->get<std::string>()));
  const auto quantization = config.find("quantization_config");
  if (quantization != config.end() && !quantization->is_null()) {
    const auto codes = open_stored_codes(path);
    add_codes(*codes, *weights, result);
    result.facts.emplace_back("quantization",
                              printable((*quantization)["quant_method"].get<std::string>()));
    for (const std::string& line : quantization_lines(codes->plan()))
      result.facts.emplace_back("", line);
    result.quantization = {{"schemes", quantization_json(codes->plan())},
                           {"config", OrderedJson::parse(quantization->dump())}};
  } else {
    for (const SafetensorsTensor& tensor : weights->tensors()) {
      check_values(*weights, tensor);
      result.tensors.push_back({tensor.name, tensor.shape, name_of(tensor.type), tensor.bytes});
    }
  }
  for (const auto& [key, value] : weights->metadata()) result.metadata[key] = value;
  std::vector<std::string> files = {path + "/config.json"};
  files.insert(files.end(), weights->files().begin(), weights->files().end());
  add_files(files, result);
  return result;
}

Inspection inspect_adapter(const std::string& path) {
  std::error_code error;
  const std::string tensors = path + "/adapter_model.safetensors";
  if (!fs::exists(tensors, error))
    refuse("{}: is missing{}", tensors,
           fs::exists(path + "/adapter_model.bin", error)
               ? "; adapter_model.bin is not read, save the adapter as safetensors"
               : "");
  const Json config =
      parse_json_object(read_text_file(path + "/adapter_config.json", JsonLimits().bytes),
                        path + "/adapter_config.json");
  Inspection result = inspect_safetensors(tensors);
  result.kind = "PEFT adapter";
  for (const char* key : {"peft_type", "base_model_name_or_path", "r", "lora_alpha"})
    if (const auto at = config.find(key); at != config.end())
      result.facts.emplace_back(key,
                                printable(at->is_string() ? at->get<std::string>() : at->dump()));
  result.metadata = OrderedJson::parse(config.dump());
  return result;
}

void add_checkpoint(const Checkpoint& checkpoint, Inspection& result) {
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const DType dtype = tensor.view.dtype;
    result.tensors.push_back({tensor.name, tensor.view.shape, name_of(dtype),
                              uint64_t(tensor.view.shape.count()) * size_of(dtype)});
  }
  result.facts.emplace_back("step", fmt::format("{}", checkpoint.step()));
  result.facts.emplace_back("run", printable(checkpoint.run_id()));
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(checkpoint.path()))
    files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  add_files(files, result);
}

Inspection inspect_checkpoint(const std::string& path) {
  Inspection result;
  result.kind = "checkpoint";
  add_checkpoint(Checkpoint::load(path), result);
  return result;
}

Inspection inspect_run(const std::string& path) {
  const recipe::Recipe recipe = recipe::load_recipe(path + "/recipe.yaml");
  const ModelConfig config = config_from_huggingface(
      read_json_file(model_directory(path) + "/config.json"), model_directory(path));
  Inspection result;
  result.kind = "run directory";
  result.facts.emplace_back("architecture", config.architecture);
  result.facts.emplace_back("recipe",
                            fmt::format("{} (preset {}, {} steps)", recipe::recipe_hash(recipe),
                                        recipe.quantize.preset, recipe.train.steps));
  result.facts.emplace_back("state",
                            RunDirectory(path).complete_result() ? "complete" : "not complete");
  FoundCheckpoint found = find_checkpoint(path + "/checkpoints");
  const bool undecided = recipe.quantize.auto_bits.any() && !found.checkpoint;
  if (undecided) result.facts.emplace_back("", "bits of each matrix: not chosen yet");
  const QuantPlan plan = undecided          ? QuantPlan()
                         : found.checkpoint ? plan_of_run(recipe, config, *found.checkpoint)
                                            : make_quant_setup(recipe.quantize, config).plan;
  for (const std::string& line : quantization_lines(plan)) result.facts.emplace_back("", line);
  result.quantization = {{"schemes", quantization_json(plan)}};
  if (!plan.kv_cache.empty()) {
    result.facts.emplace_back("KV cache", kv_cache_text(plan));
    result.quantization["kv_cache"] = kv_cache_json(plan);
  }
  for (const SkippedCheckpoint& skipped : found.skipped)
    result.facts.emplace_back("damaged", fmt::format("{}: {}", skipped.path, skipped.reason));
  if (!found.checkpoint) {
    if (has_checkpoints(path + "/checkpoints"))
      refuse("{}: none of its checkpoints is whole: {}", path,
             found.skipped.empty() ? std::string("?") : found.skipped.front().reason);
    result.facts.emplace_back("checkpoint", "none yet");
    return result;
  }
  result.facts.emplace_back("checkpoint", found.checkpoint->path());
  add_checkpoint(*found.checkpoint, result);
  return result;
}

// What files that we do not read begin with, and what to do about them.
struct Foreign {
  std::string_view head;
  const char* what;
};
using std::string_view_literals::operator""sv;
constexpr Foreign kForeign[] = {
    {"PK\x03\x04"sv, "a zip archive, such as PyTorch's .bin and .pt; convert it to safetensors"},
    {"\x80\x02"sv, "a pickle, as PyTorch writes; convert it to safetensors"},
    {"\x80\x04"sv, "a pickle, as PyTorch writes; convert it to safetensors"},
    {"\x89HDF"sv, "an HDF5 file; convert it to safetensors"},
    {"version https://git-lfs"sv, "a Git LFS pointer, not the file; fetch it with git lfs pull"},
    {"ggml"sv, "a GGML file from before GGUF; convert it with llama.cpp"},
    {"lmgg"sv, "a GGML file from before GGUF; convert it with llama.cpp"},
    {"tjgg"sv, "a GGML file from before GGUF; convert it with llama.cpp"},
    {"\x1f\x8b"sv, "compressed with gzip; unpack it"},
    {"\x28\xb5\x2f\xfd"sv, "compressed with zstd; unpack it"},
    {"\x93NUMPY"sv, "a NumPy array; convert it to safetensors"},
    {"\x89PNG"sv, "a PNG image"},
    {"\xff\xd8\xff"sv, "a JPEG image"},
    {"%PDF"sv, "a PDF document"},
    {"\x7f"
     "ELF"sv,
     "a program or a library"},
    {"<"sv, "a page of HTML or XML, such as a download that failed"},
    {"{"sv, "JSON; name the directory it lies in"},
    {"["sv, "JSON; name the directory it lies in"}};

/// Refuses an empty file, and one of another kind than its name may say.
void refuse_foreign(const MappedFile& file) {
  if (file.size() == 0) refuse("{}: is empty", file.path());
  const std::string_view head = file.text(0, std::min<size_t>(file.size(), 32));
  for (const Foreign& foreign : kForeign)
    if (head.starts_with(foreign.head)) refuse("{}: is {}", file.path(), foreign.what);
}

/// A directory that is none we read: what it holds instead, and what to name.
[[noreturn]] void refuse_directory(const std::string& path) {
  constexpr const char* kExpected = "a model, a run, a checkpoint or an adapter";
  std::error_code error;
  std::set<std::string> names;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error))
    names.insert(entry->path().filename().string());
  if (error) refuse("{}: {}", path, error.message());
  if (names.empty()) refuse("{}: is empty; expected {}", path, kExpected);
  if (names.contains("recipe.yaml")) refuse("{}: a run that has no model/config.json yet", path);
  const auto first = [&](std::string_view prefix, std::string_view suffix) {
    const auto found = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
      return name.starts_with(prefix) && name.ends_with(suffix);
    });
    return found == names.end() ? std::string() : printable(*found);
  };
  if (const std::string name = first("rank-", ".bin"); !name.empty())
    refuse("{}: holds {} but no {}: a checkpoint that was never finished", path, name,
           checkpoint_format::kManifest);
  if (const std::string name = first("step-", ""); !name.empty())
    refuse("{}: holds checkpoints; name the run, or one of them, such as {}", path, name);
  if (names.contains("checkpoints"))
    refuse("{}: holds checkpoints/ but no recipe.yaml; name one of the checkpoints", path);
  for (const char* suffix : {".gguf", ".safetensors"})
    if (const std::string name = first("", suffix); !name.empty())
      refuse("{}: holds {} but no config.json; name that file", path, name);
  refuse("{}: holds no config.json, recipe.yaml, manifest.json or adapter_config.json; expected {}",
         path, kExpected);
}

}  // namespace

Inspection inspect(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) refuse("{}: {}", path, error.message());
  if (fs::is_directory(status)) {
    const auto has = [&](const char* name) { return fs::exists(path + "/" + name, error); };
    if (has("recipe.yaml") && fs::exists(model_directory(path) + "/config.json", error))
      return inspect_run(path);
    if (has(checkpoint_format::kManifest)) return inspect_checkpoint(path);
    if (has("adapter_config.json")) return inspect_adapter(path);
    if (has("config.json")) return inspect_huggingface(path);
    refuse_directory(path);
  }
  const MappedFile file = MappedFile::open(path);
  const std::string_view head = file.text(0, std::min<size_t>(file.size(), 32));
  if (head.starts_with("GGUF")) return inspect_gguf(path);
  // The length of a header (its upper bytes are 0), then the header: no text begins so.
  const bool tensors = head.size() >= 10 && head[7] == '\0' && head[8] == '{';
  if (!tensors) refuse_foreign(file);
  if (path.ends_with(".gguf")) return inspect_gguf(path);
  if (tensors || path.ends_with(".safetensors")) return inspect_safetensors(path);
  refuse("{}: is neither safetensors nor GGUF (it begins with {})", path, printable(head));
}

uint64_t Inspection::bytes() const {
  uint64_t sum = 0;
  for (const InspectedTensor& tensor : tensors) sum += tensor.bytes;
  return sum;
}

int64_t Inspection::parameters() const {
  int64_t sum = 0;
  for (const InspectedTensor& tensor : tensors) sum += tensor.shape.count();
  return sum;
}

double Inspection::bits_per_weight() const {
  return parameters() > 0 ? 8.0 * double(bytes()) / double(parameters()) : 0.0;
}

OrderedJson to_json(const Inspection& inspection, const std::string& path) {
  OrderedJson json = {{"path", path},
                      {"kind", inspection.kind},
                      {"parameters", inspection.parameters()},
                      {"bytes", inspection.bytes()},
                      {"bits_per_weight", inspection.bits_per_weight()}};
  OrderedJson facts = OrderedJson::object();
  for (const auto& [key, value] : inspection.facts)
    if (!key.empty()) facts[key] = value;
  json["facts"] = facts;
  json["quantization"] = inspection.quantization;
  json["metadata"] = inspection.metadata;
  json["files"] = OrderedJson::array();
  for (const Inspection::File& file : inspection.files)
    json["files"].push_back(
        {{"path", file.path}, {"bytes", file.bytes}, {"xxh3_128", file.xxh3_128}});
  json["tensors"] = OrderedJson::array();
  for (const InspectedTensor& tensor : inspection.tensors) {
    OrderedJson shape = OrderedJson::array();
    for (int i = 0; i < tensor.shape.rank(); ++i) shape.push_back(tensor.shape[i]);
    json["tensors"].push_back({{"name", tensor.name},
                               {"shape", shape},
                               {"stored", tensor.stored},
                               {"bytes", tensor.bytes},
                               {"bits_per_weight", tensor.bits_per_weight()}});
  }
  return json;
}

}  // namespace qat
