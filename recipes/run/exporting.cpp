#include "recipes/run/exporting.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/version.h"
#include "engine/ptq/trained_scales.h"
#include "kernels/quant_math.h"
#include "models/adapter.h"
#include "models/export/compressed_tensors.h"
#include "models/export/gguf.h"
#include "models/export/huggingface.h"
#include "models/export/packed.h"
#include "models/export/peft.h"
#include "recipes/run/export_check.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/quant_summary.h"
#include "recipes/run/recipe/words.h"
#include "recipes/run/tokenizer_files.h"
#include "recipes/run/training_setup.h"

namespace qat {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

enum class Weights { on_grid, masters };
/// Embeddings and heads on a grid: only GGUF files hold their codes.
enum class Tables { as_codes, as_numbers };

// Q8_0, Q4_K_M, F16, BF16.
bool is_type_name(std::string word) {
  std::transform(word.begin(), word.end(), word.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  if (word == "F32" || word == "F16" || word == "BF16") return true;
  return word.size() >= 4 && word[0] == 'Q' && std::isdigit(static_cast<unsigned char>(word[1])) &&
         word[2] == '_';
}

class Exporter {
 public:
  Exporter(const ExportInputs& in, const ExportSettings& settings)
      : in_(in), settings_(settings), check_(in) {}

  void run(recipe::ExportFormat format, const std::string& directory) {
    const ExportModel model =
        this->model(format == recipe::ExportFormat::hf_master ? Weights::masters : Weights::on_grid,
                    format == recipe::ExportFormat::gguf ? Tables::as_codes : Tables::as_numbers);
    const uint64_t shard = settings_.max_shard_bytes;
    switch (format) {
      case recipe::ExportFormat::hf:
      case recipe::ExportFormat::hf_master:
        return export_huggingface(directory, model, files(),
                                  {.type = type(StoredType::f32), .max_shard_bytes = shard});
      case recipe::ExportFormat::peft:
        return export_peft(directory, in_.adapters, in_.config, in_.source, in_.store);
      case recipe::ExportFormat::compressed_tensors:
        return export_compressed_tensors(
            directory, model, files(),
            {.scale_type = scale_type(), .type = type(StoredType::f32), .max_shard_bytes = shard});
      case recipe::ExportFormat::gptq:
        return export_gptq(directory, model, files(),
                           {.type = type(StoredType::f16), .max_shard_bytes = shard});
      case recipe::ExportFormat::awq:
        return export_awq(directory, model, files(),
                          {.type = type(StoredType::f16), .max_shard_bytes = shard});
      case recipe::ExportFormat::gguf:
        export_gguf(directory, model,
                    {.name = model_name(),
                     .tokenizer = &in_.tokenizer,
                     .max_file_bytes = settings_.max_split_bytes});
        return;
    }
  }

  /// How the file's logits compare.
  const std::optional<Agreement>& agreement() const { return check_.agreement(); }

 private:
  StoredType type(StoredType otherwise) const { return settings_.type.value_or(otherwise); }

  // Half the bytes where the scales are exact in half of them.
  StoredType scale_type() const {
    const bool exact =
        std::all_of(in_.plan.linears.begin(), in_.plan.linears.end(), [](const auto& linear) {
          const std::optional<QuantSpec>& weight = linear.second.weight;
          return !weight || weight->scale_type == ScaleType::bf16 ||
                 weight->scale_type == ScaleType::portable;
        });
    return exact ? StoredType::bf16 : StoredType::f32;
  }

  ExportModel model(Weights weights, Tables tables) {
    ExportModel model;
    model.config_json = in_.config_json;
    model.tensors = export_tensors(in_.config);
    if (weights == Weights::on_grid)
      for (ExportTensor& tensor : model.tensors) {
        const auto found = in_.plan.linears.find(module_of_weight(tensor.name));
        if (found == in_.plan.linears.end() || !tensor.name.ends_with(".weight")) continue;
        if (tables == Tables::as_numbers && is_table(found->first)) continue;
        tensor.quant = found->second;
        if (found->second.static_activation) {
          tensor.input_scale = in_.store.get(activation_scale_name(found->first)).as<float>()[0];
          if (const View zero = in_.store.find(activation_zero_name(found->first)))
            tensor.input_zero = zero.as<float>()[0];
        }
      }
    model.floats = [this, weights](const ExportTensor& tensor, float* out) {
      if (tensor.quantized()) return dequantize(codes(tensor), out);
      // A table on its grid, in a format that holds numbers.
      const auto planned = in_.plan.linears.find(module_of_weight(tensor.name));
      if (weights == Weights::on_grid && planned != in_.plan.linears.end() &&
          planned->second.weight)
        return dequantize(codes({tensor.name, tensor.shape, planned->second}), out);
      const std::string linear = module_of_weight(tensor.name);
      if (tensor.name.ends_with(".weight") && on_adapter_base(linear))
        return merged_weight(in_.adapters, linear, tensor.shape, in_.store, in_.kernels, in_.stream,
                             out);
      const View master = in_.store.get(tensor.name);
      in_.kernels.cast.run({master, {reinterpret_cast<std::byte*>(out), master.shape, DType::f32}},
                           in_.stream);
    };
    model.codes = [this](const ExportTensor& tensor) { return codes(tensor); };
    if (weights == Weights::on_grid) model.provenance = in_.provenance;
    const QuantPlan plan = weights == Weights::on_grid ? in_.plan : QuantPlan{};
    // GGUF files hold what is not quantized in 16 bits.
    const StoredType stored = type(tables == Tables::as_codes ? StoredType::f16 : StoredType::f32);
    model.check = [this, plan, stored](const std::string& path) {
      return check_.find_fault(path, plan, stored);
    };
    return model;
  }

  // Its values are made of a frozen matrix and an adapter, either of which may be plain.
  bool on_adapter_base(const std::string& linear) const {
    return in_.adapters.linears.count(linear) || in_.adapters.packed.count(linear);
  }

  QuantizedMatrix codes(const ExportTensor& tensor) {
    return tensor.quant.stored_weight ? stored_codes(tensor) : chosen_codes(tensor);
  }

  // Codes that came with the model.
  QuantizedMatrix stored_codes(const ExportTensor& tensor) const {
    const std::string path = module_of_weight(tensor.name);
    QuantizedMatrix matrix;
    matrix.spec = *tensor.quant.weight;
    matrix.shape = tensor.shape;
    take(matrix.codes, in_.store.get(codes_name(path)));
    take_grid(path, matrix);
    if (tensor.quant.listed_groups) take(matrix.group_of, in_.store.get(codes_group_name(path)));
    if (tensor.quant.trained_stored_scale)
      for (float& scale : matrix.scales) scale = stored_scale(scale, matrix.spec.scale_type);
    return matrix;
  }

  template <class T>
  static void take(std::vector<T>& into, const View& from) {
    into.assign(from.as<T>(), from.as<T>() + from.count());
  }

  void take_grid(const std::string& path, QuantizedMatrix& matrix) const {
    take(matrix.scales, in_.store.get(codes_scale_name(path)));
    if (!matrix.spec.symmetric()) take(matrix.zeros, in_.store.get(codes_zero_name(path)));
  }

  // The very kernel of the training step, on the final masters.
  QuantizedMatrix chosen_codes(const ExportTensor& tensor) const {
    QuantizedMatrix matrix;
    matrix.spec = *tensor.quant.weight;
    matrix.shape = tensor.shape;
    matrix.codes.resize(size_t(tensor.shape.count()));
    const int64_t scales = matrix.spec.per == Per::tensor ? 1 : tensor.shape[0] * matrix.groups();
    matrix.scales.resize(size_t(scales));
    if (!matrix.spec.symmetric()) matrix.zeros.resize(size_t(scales));
    const auto view = [](auto& values, Shape shape, DType dtype) {
      return View{reinterpret_cast<std::byte*>(values.data()), shape, dtype};
    };
    Quantize args;
    std::vector<float> merged;
    if (const std::string linear = module_of_weight(tensor.name); on_adapter_base(linear)) {
      merged.resize(size_t(tensor.shape.count()));
      merged_weight(in_.adapters, linear, tensor.shape, in_.store, in_.kernels, in_.stream,
                    merged.data());
      args.x = view(merged, tensor.shape, DType::f32);
    } else {
      args.x = in_.store.get(tensor.name);
    }
    args.codes = view(matrix.codes, tensor.shape, DType::i8);
    const std::string path = module_of_weight(tensor.name);
    const View scale = view(matrix.scales, {scales}, DType::f32);
    const View zero = matrix.zeros.empty() ? View{} : view(matrix.zeros, {scales}, DType::f32);
    if (tensor.quant.trained_scale || tensor.quant.stored_grid) {
      if (tensor.quant.trained_scale)
        take_trained_scales(path, matrix);
      else
        take_grid(path, matrix);
      args.given_scale = scale;
      args.given_zero = zero;
    } else {
      args.scale = scale;
      args.zero = zero;
    }
    args.spec = matrix.spec;
    in_.kernels.quantize.run(args, in_.stream);
    return matrix;
  }

  void take_trained_scales(const std::string& path, QuantizedMatrix& matrix) const {
    const std::vector<float> scales =
        trained_scales(path, matrix.spec, in_.store, in_.kernels, in_.stream);
    std::copy(scales.begin(), scales.end(), matrix.scales.begin());
    if (matrix.zeros.empty()) return;
    const View zeros = in_.store.get(weight_zero_name(path));
    std::copy_n(zeros.as<float>(), matrix.zeros.size(), matrix.zeros.begin());
  }

  // What the model is called: by where it came from, or by its run.
  std::string model_name() const {
    fs::path path = in_.source.empty() ? fs::path(in_.name) : fs::path(in_.source);
    if (path.filename().empty()) path = path.parent_path();
    std::string name = path.filename().string();
    if (!name.ends_with(".gguf")) return name;
    name.resize(name.size() - std::string_view(".gguf").size());
    // "SmolLM2-135M-Instruct.Q4_1": the type it was read from is not the one it is written in.
    const size_t end = name.find_last_of("-.");
    if (end != std::string::npos && end + 1 < name.size() && is_type_name(name.substr(end + 1)))
      name.resize(end);
    return name;
  }

  ExportFiles files() const {
    ExportFiles files;
    if (!in_.source.empty() && fs::is_directory(in_.source)) files.source_directory = in_.source;
    files.texts = tokenizer_files(in_.tokenizer, in_.chat_template);
    return files;
  }

  const ExportInputs& in_;
  const ExportSettings& settings_;
  ExportCheck check_;
};

// No file says how its runtime caches keys and values as trained here.
std::string kv_cache_note(recipe::ExportFormat format, const QuantPlan& plan,
                          const ModelConfig& config) {
  const QuantSpec& trained = plan.kv_cache.begin()->second;
  if (format != recipe::ExportFormat::gguf)
    return fmt::format("trained for a KV cache in {}, of which the file says nothing",
                       kv_cache_text(plan));
  for (const recipe::KvType type : {recipe::KvType::q8_0, recipe::KvType::q4_0})
    if (trained == recipe::kv_cache_of(type).spec(config.head_dim)) {
      const std::string name = recipe::word_of(type);
      return fmt::format(
          "the file does not say how the KV cache is kept: start llama.cpp with --cache-type-k {0} "
          "--cache-type-v {0} (and --flash-attn on)",
          name);
    }
  return fmt::format("llama.cpp has no KV cache in {}; it was trained for one",
                     kv_cache_text(plan));
}

uint64_t tensor_bytes(const std::string& path) {
  if (fs::is_regular_file(path)) return fs::file_size(path);
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.path().extension() == ".safetensors" || entry.path().extension() == ".gguf")
      bytes += entry.file_size();
  return bytes;
}

}  // namespace

json export_as(const ExportInputs& in, recipe::ExportFormat format, const std::string& directory,
               const ExportSettings& settings) {
  Exporter exporter(in, settings);
  exporter.run(format, directory);
  const uint64_t bytes = tensor_bytes(directory);
  log::info("exported {} ({:.1f} MiB of tensors), read back equal bit for bit", directory,
            double(bytes) / 1048576);
  if (!in.plan.kv_cache.empty()) log::info("  {}", kv_cache_note(format, in.plan, in.config));
  json done = {{"path", directory}, {"tensor_bytes", bytes}, {"verified", true}};
  if (!exporter.agreement()) return done;  // an adapter alone computes nothing
  const Agreement& a = *exporter.agreement();
  log::info(
      "  its logits: KL {:.2e}, same likeliest token {:.2f}%, perplexity {:.4f} (trained "
      "{:.4f}), {} tokens of {}",
      a.kl, 100 * a.same_likeliest, a.perplexity, a.reference_perplexity, a.tokens, in.text_name);
  done["kl"] = a.kl;
  done["same_likeliest_token"] = a.same_likeliest;
  done["perplexity"] = a.perplexity;
  done["trained_perplexity"] = a.reference_perplexity;
  done["text"] = in.text_name;
  done["tokens"] = a.tokens;
  return done;
}

ExportSettings export_settings(const recipe::Recipe& recipe) {
  ExportSettings settings;
  settings.max_shard_bytes = *recipe::bytes_of_size(recipe.max_shard_size);
  settings.max_split_bytes =
      recipe.split_max_size == "none" ? 0 : *recipe::bytes_of_size(recipe.split_max_size);
  return settings;
}

json export_all(const FinishInputs& in) {
  json done = json::object();
  if (in.recipe.exports.empty()) return done;
  const std::string root = in.recipe.out + "/export";
  fs::create_directories(root);
  ExportInputs inputs{.config = in.config,
                      .config_json = in.config_json,
                      .source = in.source,
                      .name = in.recipe.out,
                      .tokenizer = in.tokenizer,
                      .chat_template = in.chat_template,
                      .plan = in.plan,
                      .adapters = in.adapters,
                      .store = in.store,
                      .kernels = in.kernels,
                      .stream = in.stream,
                      .provenance = provenance_of(in.recipe)};
  TokenizeOptions tokenize = tokenize_options(in.recipe, text_encoder(in.tokenizer, in.config), {});
  std::vector<std::string> files = in.recipe.data.eval;
  // data.format is that of the training files.
  if (tokenize.read.format == DataFormat::text)
    files.insert(files.end(), in.recipe.data.train.begin(), in.recipe.data.train.end());
  else
    tokenize.read.format = DataFormat::automatic;
  choose_text(files, tokenize, inputs);
  for (const recipe::ExportFormat format : in.recipe.exports) {
    const std::string name = recipe::word_of(format);
    if (!in.adapters.packed.empty() && format != recipe::ExportFormat::peft)
      log::info("{}: the adapter is merged into the dequantized {} base", name,
                recipe::word_of(in.recipe.adapter.base));
    if (!in.adapters.packed.empty() && format == recipe::ExportFormat::peft)
      log::info(
          "peft: the adapter belongs to the {} base; on the unquantized one it is another "
          "model",
          recipe::word_of(in.recipe.adapter.base));
    done[name] = export_as(inputs, format, root + "/" + name, export_settings(in.recipe));
  }
  return done;
}

std::string provenance_of(const recipe::Recipe& recipe) {
  if (!recipe.quantize.matrices()) return "";
  if (recipe.train.steps == 0)
    return fmt::format("{} {}: quantized after training (PTQ, {}{}), not trained on this grid",
                       kProgram, kVersion, recipe.quantize.preset,
                       recipe.quantize.solved()
                           ? fmt::format(", {}", recipe::word_of(recipe.quantize.solver.kind))
                           : "");
  return fmt::format("{} {}: trained on this grid for {} steps (recipe {})", kProgram, kVersion,
                     recipe.train.steps, recipe::recipe_hash(recipe));
}

void check_exportable(recipe::ExportFormat format, const QuantPlan& plan, const ModelConfig& config,
                      const Tokenizer* tokenizer) {
  using enum recipe::ExportFormat;
  if (config.online_down || config.online_keys)
    refuse(
        "export: {}: the weights of this model count on rotations as it runs, which nothing that "
        "reads this format makes; train with quantize.rotation.online: false, or remove the format",
        recipe::word_of(format));
  if (format == compressed_tensors || format == awq || format == gguf)
    for (const auto& [path, linear] : plan.linears)
      if (linear.listed_groups)
        refuse(
            "export: {}: the groups of {} are not runs of columns (desc_act), which only gptq (and "
            "hf, as numbers) hold; solve with quantize.solver.actorder: static, or change the "
            "format",
            recipe::word_of(format), path);
  if (format == recipe::ExportFormat::gguf) return check_gguf_export(config, plan, tokenizer);
  if (format != recipe::ExportFormat::gptq && format != recipe::ExportFormat::awq) return;
  const std::string name = recipe::word_of(format);
  const std::pair<const std::string, LinearQuant>* first = nullptr;
  for (const auto& linear : plan.linears) {
    if (!linear.second.weight || is_table(linear.first)) continue;
    const QuantSpec& spec = *linear.second.weight;
    const Shape shape = linear_shape(config, linear.first);
    if (shape[0] % 32 != 0 || shape[1] % 32 != 0)
      refuse(
          "export: {}: {} is [{}, {}], its sizes must be multiples of 32; leave it out "
          "(quantize.exclude) or remove the format",
          name, linear.first, shape[0], shape[1]);
    if (!first) first = &linear;
    const QuantSpec& common = *first->second.weight;
    if (spec.bits != common.bits || spec.per != common.per || spec.group != common.group ||
        spec.symmetric() != common.symmetric())
      refuse(
          "export: {}: {} has {}, {} {}; the format has one grid for all matrices; choose a "
          "preset for that target",
          name, first->first, grid_text(common, "channel"), linear.first,
          grid_text(spec, "channel"));
  }
}

std::vector<std::string> kernel_warnings(recipe::ExportFormat format, const QuantPlan& plan,
                                         const ModelConfig& config) {
  const bool packed = format == recipe::ExportFormat::gptq || format == recipe::ExportFormat::awq;
  if (!packed && format != recipe::ExportFormat::compressed_tensors) return {};
  std::string first;
  int64_t others = -1;
  for (const auto& [path, linear] : plan.linears) {
    if (!linear.weight || is_table(path) || (!packed && linear.activation)) continue;
    const Shape shape = linear_shape(config, path);
    if (shape[1] % 128 == 0 && shape[0] % 64 == 0) continue;
    if (first.empty()) first = fmt::format("{} is [{}, {}]", path, shape[0], shape[1]);
    ++others;
  }
  if (first.empty()) return {};
  return {fmt::format(
      "export: {}: vLLM's Marlin kernels need inputs in multiples of 128 and outputs in multiples "
      "of 64; {}{}",
      recipe::word_of(format), first,
      others > 0 ? fmt::format(", and {} others do not fit either", others) : "")};
}

}  // namespace qat
