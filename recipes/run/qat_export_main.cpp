// qat-export RUN_OR_MODEL --format F -o OUT: writes a model in a deployable format, verified.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/core/log.h"
#include "engine/core/version.h"
#include "engine/dist/communicator.h"
#include "engine/io/json.h"
#include "engine/io/printable.h"
#include "recipes/run/command.h"
#include "recipes/run/exporting.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/quant_summary.h"
#include "recipes/run/recipe/export_targets.h"
#include "recipes/run/recipe/presets.h"
#include "recipes/run/recipe/words.h"

namespace qat {
namespace {

struct Options {
  std::string model, format, output, ptq, text, dtype, max_shard = "5GB", max_split;
  int threads = 0;
  bool json = false;
};

recipe::ExportFormat format_named(const std::string& word) {
  for (const auto& [name, format] : recipe::Words<recipe::ExportFormat>::list())
    if (word == name) return format;
  internal_error("no format {}", word);
}

bool stores_codes(recipe::ExportFormat format) {
  using enum recipe::ExportFormat;
  return format != hf && format != hf_master && format != peft;
}

// "200MB", "5GB": decimal units, as other tools read them.
uint64_t size_option(const char* option, const std::string& text) {
  const auto bytes = recipe::bytes_of_size(text);
  if (!bytes) refuse("{}: expected a size such as 500MB or 5GB, got {}", option, text);
  return *bytes;
}

// A model that was never on a grid is put on one only where the command says so.
void quantize_now(const Options& options, recipe::ExportFormat format, ModelBundle& bundle) {
  if (!bundle.plan.linears.empty())
    refuse("--ptq {}: {} is quantized already, and exported with the codes it has", options.ptq,
           options.model);
  recipe::QuantizeOptions quantize;
  recipe::apply_preset(recipe::preset_named(options.ptq), quantize);
  if (!quantize.any()) {
    if (format == recipe::ExportFormat::gguf) return;
    refuse("--ptq none: {} files hold codes; name a grid, or take --format gguf or hf",
           options.format);
  }
  if (quantize.activations.bits && !quantize.activations.dynamic)
    refuse("--ptq {}: its activations need calibration; run qat-train with train.steps: 0",
           options.ptq);
  if (const auto found = recipe::misfit(quantize, format))
    refuse("--ptq {}: {} cannot hold it: {}: expected {}, got {}", options.ptq, options.format,
           found->key, found->expected, found->got);
  const QuantSetup setup = make_quant_setup(quantize, bundle.config);
  if (const std::string alias = recipe::alias_text(quantize); !alias.empty())
    log::info("{}", alias);
  for (const std::string& note : setup.fallbacks) log::warn("{}", note);
  for (const std::string& note : setup.notes) log::info("{}", note);
  bundle.plan = setup.plan;
}

std::string provenance(const Options& options, const ModelBundle& bundle) {
  if (bundle.recipe) return provenance_of(*bundle.recipe);
  if (!options.ptq.empty() && options.ptq != "none")
    return fmt::format("{} {}: quantized after training (PTQ, {}), not trained on this grid",
                       kProgram, kVersion, options.ptq);
  if (bundle.plan.linears.empty()) return "";
  std::string before;
  if (const std::string file = options.model + "/config.json"; std::filesystem::exists(file)) {
    const Json config = read_json_file(file);
    if (const auto by = config.find("quantized_by"); by != config.end() && by->is_string())
      before = fmt::format(" ({})", printable(by->get<std::string>()));
  }
  return fmt::format("{} {}: codes as stored in another format{}", kProgram, kVersion, before);
}

void check_grid(const Options& options, recipe::ExportFormat format, const ModelBundle& bundle) {
  if (format == recipe::ExportFormat::peft && bundle.adapters.linears.empty())
    refuse("{}: has no adapter; --format peft writes that of a run trained with one",
           options.model);
  if (bundle.recipe) {
    const recipe::QuantizeOptions& quantize = bundle.recipe->quantize;
    // A GGUF file holds floating point as well, as the run's own export of it does.
    const bool holds_floats = !stores_codes(format) || format == recipe::ExportFormat::gguf;
    if (!holds_floats && !quantize.weights.bits)
      refuse("{}: this run trained without a grid for its weights; {} holds codes", options.model,
             options.format);
    if (const auto found = recipe::misfit(quantize, format))
      refuse("{}: trained on a grid that {} cannot hold: {}: expected {}, got {}", options.model,
             options.format, found->key, found->expected, found->got);
    return;
  }
  const bool as_it_is = format == recipe::ExportFormat::gguf && options.ptq == "none";
  if (stores_codes(format) && bundle.plan.linears.empty() && !as_it_is)
    refuse(
        "{}: was never trained on a grid; train it with qat-train, or add --ptq PRESET to quantize "
        "it now (the file will say so){}",
        options.model,
        format == recipe::ExportFormat::gguf ? "; --ptq none leaves it in 16 bits" : "");
  if (format == recipe::ExportFormat::hf_master && !bundle.plan.linears.empty())
    refuse("{}: holds codes, no high-precision weights; use --format hf", options.model);
}

Exit run(const Options& options, int threads) {
  namespace fs = std::filesystem;
  const recipe::ExportFormat format = format_named(options.format);
  ExportSettings settings;
  settings.max_shard_bytes = size_option("--max-shard-size", options.max_shard);
  if (!options.max_split.empty())
    settings.max_split_bytes = size_option("--split-max-size", options.max_split);
  if (options.dtype == "fp32") settings.type = StoredType::f32;
  if (options.dtype == "bf16") settings.type = StoredType::bf16;
  if (options.dtype == "fp16") settings.type = StoredType::f16;
  Store store;
  Stream stream(threads);
  ModelBundle bundle = open_model(options.model, store, cpu_kernels(), stream);
  fill_rope_table(bundle.config, store, "");
  if (!options.ptq.empty()) quantize_now(options, format, bundle);
  check_grid(options, format, bundle);
  check_exportable(format, bundle.plan, bundle.config, bundle.tokenizer.get());
  if (format != recipe::ExportFormat::hf_master)
    for (const std::string& line : quantization_lines(bundle.plan)) log::info("{}", line);
  for (const std::string& warning : kernel_warnings(format, bundle.plan, bundle.config))
    log::warn("{}", warning);
  ExportInputs inputs{.config = bundle.config,
                      .config_json = bundle.config_json,
                      .source = bundle.source,
                      .name = options.model,
                      .tokenizer = *bundle.tokenizer,
                      .plan = bundle.plan,
                      .adapters = bundle.adapters,
                      .store = store,
                      .kernels = cpu_kernels(),
                      .stream = stream,
                      .provenance = provenance(options, bundle)};
  TokenizeOptions tokenize;
  tokenize.encoder = text_encoder(*bundle.tokenizer, bundle.config);
  tokenize.read.format = DataFormat::text;
  std::vector<std::string> files;
  if (!options.text.empty()) {
    if (!fs::exists(options.text)) refuse("--text: {} does not exist", options.text);
    files = {options.text};
  } else if (bundle.recipe) {
    files = bundle.recipe->data.eval;
  }
  choose_text(files, tokenize, inputs);
  if (!options.text.empty() && inputs.text_name != options.text)
    refuse("--text: {} cannot be read, or does not fill a window of 128 tokens", options.text);
  const fs::path parent = fs::path(options.output).parent_path();
  std::error_code error;
  if (!parent.empty()) fs::create_directories(parent, error);
  if (error)
    throw Error(Exit::cannot_write,
                fmt::format("cannot create {}: {}", parent.string(), error.message()));
  nlohmann::ordered_json line = {{"model", options.model}, {"format", options.format}};
  line.update(export_as(inputs, format, options.output, settings));
  line["quantization"] = quantization_json(bundle.plan);
  if (!inputs.provenance.empty()) line["quantized_by"] = inputs.provenance;
  if (options.json) write_output(line.dump() + "\n");
  return Exit::ok;
}

// Among ranks the first writes and the others wait: there is one output.
Exit run_among_ranks(const Options& options, Communicator& ranks) {
  Exit exit = Exit::ok;
  if (ranks.rank() == 0)
    exit = run(options, options.threads > 0 ? options.threads : default_threads(ranks));
  ranks.barrier();
  return exit;
}

}  // namespace
}  // namespace qat

int main(int argc, char** argv) {
  using namespace qat;
  CLI::App app{
      "Writes a model in a deployable format: the codes that were trained, read back and compared "
      "before the output gets its name.",
      "qat-export"};
  Options options;
  app.add_option("model", options.model,
                 "run directory, or a model (Hugging Face directory, .gguf file)")
      ->required();
  app.add_option("--format", options.format, "what to write")
      ->required()
      ->check(CLI::IsMember(recipe::all_words<recipe::ExportFormat>(recipe::Spelling::written)));
  app.add_option("-o,--out", options.output, "where; an earlier export there is replaced")
      ->required();
  app.add_option(
         "--ptq", options.ptq,
         "quantize a model that was never trained on a grid, by this preset; none leaves it as "
         "it is, in 16 bits (gguf)")
      ->check(CLI::IsMember(recipe::preset_names()));
  app.add_option("--text", options.text,
                 "compare logits on this text (default: the run's held-out one, or a built-in)");
  app.add_option("--dtype", options.dtype, "of what is not quantized (default: the format's)")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  app.add_option("--max-shard-size", options.max_shard, "largest safetensors file, such as 500MB");
  app.add_option("--split-max-size", options.max_split,
                 "largest GGUF file, such as 2GB (default: one file)");
  app.add_option("--threads", options.threads, "0: all");
  app.add_flag("--json", options.json, "print one JSON object");
  return run_command_among_ranks(
      app, argc, argv, [&](RunHealth& health) { return run_among_ranks(options, health.ranks()); });
}
