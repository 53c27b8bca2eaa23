#include "recipes/run/model_bundle.h"

#include <filesystem>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/train/checkpoint.h"
#include "models/adapter.h"
#include "models/decoder.h"
#include "models/export/peft.h"
#include "models/families.h"
#include "recipes/run/adapter_setup.h"
#include "recipes/run/auto_bits.h"
#include "recipes/run/checkpointing.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/recipe/recipe.h"
#include "recipes/run/recipe/words.h"
#include "recipes/run/run_source.h"
#include "recipes/run/solver_setup.h"
#include "recipes/run/training_setup.h"

namespace qat {

namespace fs = std::filesystem;

std::string model_directory(const std::string& run) {
  return run + "/model";
}

namespace {

// The base lies where the recipe found it; the checkpoint says whether it is still the same.
void open_run_base(const recipe::Recipe& recipe, const Checkpoint& checkpoint, ModelBundle& bundle,
                   Store& store, const KernelTable& kernels, Stream& stream) {
  bundle.adapters = make_adapter_plan(recipe, bundle.config);
  if (bundle.adapters.empty()) return;
  const auto source = open_source(recipe.model.from.path, "model").model;
  load_base(*source, bundle.adapters, master_dtype(recipe), store, kernels, stream);
  check_base(checkpoint, base_identity(store), source->path());
}

ModelBundle open_run(const std::string& path, Store& store, const KernelTable& kernels,
                     Stream& stream) {
  ModelBundle bundle;
  const recipe::Recipe recipe = recipe::load_recipe(path + "/recipe.yaml");
  bundle.config =
      config_from_huggingface(read_json_file(model_directory(path) + "/config.json"), path);

  bundle.config_json = read_text_file(model_directory(path) + "/config.json", size_t{1} << 20);
  bundle.tokenizer = Tokenizer::open(model_directory(path));
  FoundCheckpoint found = find_checkpoint(path + "/checkpoints");
  if (!found.checkpoint)
    refuse("{}: this run has no whole checkpoint yet; run qat-train on its recipe first", path);
  bundle.plan = plan_of_run(recipe, bundle.config, *found.checkpoint);
  open_run_base(recipe, *found.checkpoint, bundle, store, kernels, stream);
  mark_solved(recipe, bundle.adapters, bundle.config, bundle.plan);
  restore_model(*found.checkpoint, trained_tensors(bundle.adapters, bundle.config, bundle.plan),
                store);
  if (!bundle.adapters.empty()) put_masters_on_codes(bundle.plan, store, kernels, stream);
  if (!recipe.model.scratch()) bundle.source = recipe.model.from.path;
  bundle.recipe = recipe;
  return bundle;
}

}  // namespace

void add_options(CLI::App& app, AdapterArguments& arguments) {
  app.add_option("--adapter", arguments.directory, "PEFT directory (LoRA or DoRA) on the model");
  app.add_option("--base", arguments.base, "how the adapter's base is stored (none: fp32)")
      ->check(CLI::IsMember({"none", "bf16", "int8", "nf4", "fp4"}));
}

void add_kv_option(CLI::App& app, std::string& kv) {
  app.add_option("--kv", kv,
                 "how the KV cache is stored (default: as a run was trained, else f32: the type of "
                 "the computation)")
      ->check(CLI::IsMember({"f32", "q8_0", "q4_0", "int8", "int4"}));
}

void choose_kv_cache(const std::string& kv, ModelBundle& bundle) {
  if (kv.empty()) return;
  bundle.plan.kv_cache.clear();
  for (const auto& [word, type] : recipe::Words<recipe::KvType>::list())
    if (kv == word && type != recipe::KvType::none)
      bundle.plan.kv_cache = kv_cache_plan(recipe::kv_cache_of(type), bundle.config);
}

ModelBundle open_model(const std::string& path, Store& store, const KernelTable& kernels,
                       Stream& stream, const AdapterArguments& adapter) {
  if (!fs::exists(path))
    refuse(
        "{}: no such file or directory; expected a Hugging Face directory, a .gguf file or a run "
        "directory",
        path);
  if (is_run_directory(path)) {
    if (!adapter.directory.empty())
      refuse("--adapter: {} is a run directory; give the model the adapter was made for", path);
    return open_run(path, store, kernels, stream);
  }
  ModelBundle bundle;
  const auto source = ModelSource::open(path);
  bundle.config = source->config();
  bundle.config_json = source->config_json();
  bundle.tokenizer = Tokenizer::open(path);
  bundle.source = path;
  if (adapter.directory.empty()) {
    if (adapter.base != "none") refuse("--base: has a meaning only beside --adapter");
    bundle.plan = load_deployed(*source, store, DType::f32, Category::masters);
    return bundle;
  }
  recipe::BaseChoice base{};
  for (const auto& [word, value] : recipe::Words<recipe::BaseChoice>::list())
    if (adapter.base == word) base = value;
  bundle.adapters.linears = read_peft_plan(adapter.directory, bundle.config);
  bundle.adapters.packed = packed_base(base, true, bundle.config);
  const DType matrices = base == recipe::BaseChoice::none ? DType::f32 : DType::bf16;
  load_base(*source, bundle.adapters, matrices, store, kernels, stream);
  load_peft(adapter.directory, bundle.adapters, bundle.config, store, kernels, stream);
  return bundle;
}

ForwardSpec forward_spec(const ModelBundle& bundle, const Store& store, DType dtype) {
  ForwardSpec spec;
  spec.config = bundle.config;
  spec.plan = bundle.plan;
  spec.adapters = bundle.adapters;
  spec.fuse = Switch::on;
  spec.build.dtype = dtype;
  spec.build.weight_dtype = store.get("model.embed_tokens.weight").dtype;
  return spec;
}

TextEncoder text_encoder(const Tokenizer& tokenizer, const ModelConfig& config) {
  TextEncoder encoder;
  encoder.encode = [&tokenizer](std::string_view text) { return tokenizer.encode(text); };
  encoder.fingerprint = tokenizer.fingerprint();
  encoder.vocab_size = config.vocab;
  encoder.eos = tokenizer.eos_id();
  encoder.bos = -1;
  return encoder;
}

}  // namespace qat
