#include "recipes/run/model_bundle.h"

#include <filesystem>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/train/checkpoint.h"
#include "models/decoder.h"
#include "models/families.h"
#include "recipes/run/checkpointing.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/recipe/recipe.h"
#include "recipes/run/run_source.h"

namespace qat {

namespace fs = std::filesystem;

std::string model_directory(const std::string& run) {
  return run + "/model";
}

namespace {

ModelBundle open_run(const std::string& path, Store& store) {
  ModelBundle bundle;
  const recipe::Recipe recipe = recipe::load_recipe(path + "/recipe.yaml");
  bundle.config =
      config_from_huggingface(read_json_file(model_directory(path) + "/config.json"), path);

  bundle.config_json = read_text_file(model_directory(path) + "/config.json", size_t{1} << 20);
  bundle.tokenizer = Tokenizer::open(model_directory(path));
  bundle.plan = make_quant_setup(recipe.quantize, bundle.config).plan;
  FoundCheckpoint found = find_checkpoint(path + "/checkpoints");
  if (!found.checkpoint)
    refuse("{}: this run has no whole checkpoint yet; run qat-train on its recipe first", path);
  restore_model(*found.checkpoint, bundle.config, store);
  return bundle;
}

}  // namespace

ModelBundle open_model(const std::string& path, Store& store) {
  if (!fs::exists(path))
    refuse(
        "{}: no such file or directory; expected a Hugging Face directory, a .gguf file or a run "
        "directory",
        path);
  if (is_run_directory(path)) return open_run(path, store);
  ModelBundle bundle;
  const auto source = ModelSource::open(path);
  bundle.config = source->config();
  bundle.config_json = source->config_json();
  bundle.tokenizer = Tokenizer::open(path);
  load_parameters(*source, store, "", DType::f32, Category::masters);
  return bundle;
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
