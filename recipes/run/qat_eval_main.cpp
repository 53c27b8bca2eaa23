// qat-eval MODEL: perplexity, tasks and what generation looks like, of a model, a GGUF file or a
// finished run; beside a reference model where one is given.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/core/log.h"
#include "engine/io/json.h"
#include "models/evaluate.h"
#include "recipes/run/command.h"
#include "recipes/run/evaluation.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/prompts.h"
#include "recipes/run/quant_summary.h"

namespace qat {
namespace {

using nlohmann::ordered_json;

struct Arguments {
  std::string model, reference, text, dtype = "fp32", activations = "served", kv;
  std::vector<int64_t> contexts = {512};
  int64_t max_windows = 0, rows = 4;
  std::vector<std::string> tasks;
  TaskSource task_source;
  std::string results, prompts;
  int64_t generate = 0;
  bool json = false, bos = false;
  int threads = 0;
  AdapterArguments adapter;
};

// A model and how it is run.
struct Opened {
  Store store;
  ModelBundle bundle;
  ForwardSpec spec;

  EvaluatedModel evaluated(Stream& stream) {
    const std::string settings = fmt::format("{} {} {}", plan_identity(bundle.plan),
                                             name_of(spec.build.dtype), bundle.config_json);
    return {spec, store, cpu_kernels(), stream, *bundle.tokenizer, model_identity(store, settings)};
  }
  ComparedModel compared() {
    return {bundle.config, bundle.plan, store, spec.build.weight_dtype, &bundle.adapters};
  }
};

enum class Role { model, reference };
std::unique_ptr<Opened> open(const Arguments& in, Role role, Stream& stream) {
  auto opened = std::make_unique<Opened>();
  const bool reference = role == Role::reference;
  opened->bundle = open_model(reference ? in.reference : in.model, opened->store, cpu_kernels(),
                              stream, reference ? AdapterArguments{} : in.adapter);
  if (in.activations == "float")
    for (auto& [path, quant] : opened->bundle.plan.linears) quant.activation.reset();
  if (!reference) choose_kv_cache(in.kv, opened->bundle);
  fill_rope_table(opened->bundle.config, opened->store, "");
  opened->spec =
      forward_spec(opened->bundle, opened->store, in.dtype == "fp32" ? DType::f32 : DType::bf16);
  return opened;
}

void say(const Arguments& in, const std::string& line) {
  if (!in.json) write_output(line + "\n");
}

void measure_text(const Arguments& in, Opened& model, Opened* reference, Stream& stream,
                  ordered_json& out) {
  const Tokenizer& tokenizer = *model.bundle.tokenizer;
  TokenizeOptions tokenize;
  tokenize.encoder = text_encoder(tokenizer, model.bundle.config);
  tokenize.read.format = DataFormat::text;
  if (in.bos && tokenizer.bos_id() < 0)
    refuse("--bos: the tokenizer of {} has no beginning-of-text token", in.model);
  out["text"] = in.text;
  for (const int64_t context : in.contexts) {
    const auto windows = EvalWindows::open(in.text, tokenize,
                                           {.window = context,
                                            .max_windows = in.max_windows,
                                            .bos = in.bos ? tokenizer.bos_id() : -1});
    ForwardSpec spec = model.spec;
    if (!spec.plan.kv_cache.empty()) spec.build.cache = context;
    const Perplexity p =
        evaluate_perplexity(spec, model.store, cpu_kernels(), stream, windows, in.rows);
    const ordered_json found = json_of(p);
    say(in, fmt::format("perplexity {:.4f}  (nll {:.6f}, {} tokens in {} windows of {}; {:.4f} to "
                        "{:.4f})",
                        p.perplexity, p.nll, p.tokens, p.windows, context,
                        found.at("low").get<double>(), found.at("high").get<double>()));
    if (in.contexts.size() == 1) {
      out["context"] = context;
      out.update(found);
    } else {
      out["contexts"][std::to_string(context)] = found;
    }
    if (!reference) continue;
    std::vector<Batch> batches;
    for (int64_t i = 0; i < windows.windows(); ++i) batches.push_back(windows.rows(i, 1));
    const Agreement agreement =
        compare_models(reference->compared(), model.compared(), cpu_kernels(), stream, batches);
    out["agreement"][std::to_string(context)] = json_of(agreement);
    say(in, "against the reference: " + line_of(agreement));
  }
}

void measure_tasks(const Arguments& in, Opened& model, Opened* reference, Stream& stream,
                   ResultsFile& results, ordered_json& out) {
  const EvaluatedModel asked = model.evaluated(stream);
  std::optional<EvaluatedModel> other;
  if (reference) other.emplace(reference->evaluated(stream));
  for (const std::string& name : in.tasks) {
    TaskOptions options;
    const TaskData data = open_task(task_named(name), in.task_source, options);
    const TaskResult result = run_task(asked, data, options, results, name);
    out["tasks"][name] = json_of(result);
    say(in, line_of(result));
    if (!other) continue;
    const TaskResult expected = run_task(*other, data, options, results, name + " (reference)");
    out["reference_tasks"][name] = json_of(expected);
    say(in, line_of(expected) + " (reference)");
    if (expected.right.size() != result.right.size()) continue;
    const Flips flipped = flips(expected, result);
    out["flips"][name] = json_of(flipped);
    say(in, fmt::format("{:<14}{} of {} answers flipped: {} to wrong, {} to right", name,
                        flipped.to_wrong + flipped.to_right, flipped.rows, flipped.to_wrong,
                        flipped.to_right));
  }
}

void measure_generation(const Arguments& in, Opened& model, Opened* reference, Stream& stream,
                        ResultsFile& results, ordered_json& out) {
  std::vector<std::string> prompts = stability_prompts();
  if (!in.prompts.empty()) prompts = read_prompts(in.prompts);
  const auto texts =
      run_generation(model.evaluated(stream), prompts, in.generate, results, "generation");
  std::vector<GeneratedText> expected;
  if (reference)
    expected = run_generation(reference->evaluated(stream), prompts, in.generate, results,
                              "generation (reference)");
  const Stability stability = stability_of(texts, reference ? &expected : nullptr);
  out["generation"] = json_of(stability, texts);
  if (reference) out["reference_generation"] = json_of(stability_of(expected, nullptr), expected);
  say(in, line_of(stability));
}

void check(const Arguments& in) {
  if (!in.prompts.empty() && in.generate == 0)
    refuse("--prompts: has a meaning only beside --generate TOKENS");
  if (in.text.empty() && in.tasks.empty() && in.generate == 0)
    refuse("nothing to measure; give --text FILE, --tasks NAMES or --generate TOKENS");
  if (!in.tasks.empty() && in.task_source.directory.empty())
    refuse("--tasks: expected --task-data DIR beside it, the folder with {} and the like",
           task_specs().front().file);
  for (const std::string& name : in.tasks) task_named(name);
}

Exit evaluate(const Arguments& in) {
  check(in);
  Stream stream(in.threads);
  const auto model = open(in, Role::model, stream);
  std::unique_ptr<Opened> reference;
  if (!in.reference.empty()) {
    reference = open(in, Role::reference, stream);
    if (reference->bundle.tokenizer->fingerprint() != model->bundle.tokenizer->fingerprint() ||
        reference->bundle.config.vocab != model->bundle.config.vocab)
      refuse("--reference: {} has another tokenizer than {}; both need the same", in.reference,
             in.model);
  }
  ResultsFile results(in.results);
  ordered_json out = {{"model", in.model}};
  if (reference) out["reference"] = in.reference;
  if (!in.json)
    for (const std::string& line : quantization_lines(model->bundle.plan))
      log::info("quantized as it is served: {}", line);
  if (!in.json && !model->bundle.plan.kv_cache.empty())
    log::info("KV cache: {}", kv_cache_text(model->bundle.plan));
  if (!in.text.empty()) measure_text(in, *model, reference.get(), stream, out);
  if (!in.tasks.empty()) measure_tasks(in, *model, reference.get(), stream, results, out);
  if (in.generate > 0) measure_generation(in, *model, reference.get(), stream, results, out);
  out["quantized_linears"] = planned_linears(model->bundle.plan);
  out["quantization"] = quantization_json(model->bundle.plan);
  out["kv_cache"] = kv_cache_json(model->bundle.plan);
  if (in.json)
    write_output(out.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
  return Exit::ok;
}

}  // namespace
}  // namespace qat

int main(int argc, char** argv) {
  using namespace qat;
  CLI::App app{
      "Measures a model. Perplexity on a text: consecutive windows of N tokens, the first token of "
      "each unscored, the trailing partial window dropped. Tasks as lm-evaluation-harness defines "
      "them. Ranges in brackets hold the middle 95% over resampled windows or rows.",
      "qat-eval"};
  Arguments in;
  app.add_option("model", in.model, "Hugging Face directory, .gguf file or run directory")
      ->required();
  app.add_option("--text", in.text,
                 "a .txt file, or .jsonl with a field `text` (joined by blank lines)");
  app.add_option("--context", in.contexts, "tokens a window; several, with commas, in turn")
      ->delimiter(',')
      ->check(CLI::Range(2, 1 << 20));
  app.add_option("--max-windows", in.max_windows, "only the first so many windows (0: all)")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--bos", in.bos, "put the beginning-of-text token before each window");
  std::string names;
  for (const TaskSpec& spec : task_specs())
    names += (names.empty() ? "" : ", ") + std::string(spec.name);
  app.add_option("--tasks", in.tasks, "with commas: " + names)->delimiter(',');
  app.add_option("--task-data", in.task_source.directory,
                 "folder with TASK.jsonl (see Tasks in README.md)");
  app.add_option("--limit", in.task_source.limit, "only the first so many rows of a task (0: all)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--shots", in.task_source.shots, "solved examples before a question of gsm8k")
      ->check(CLI::Range(0, 64));
  app.add_option("--examples", in.task_source.examples,
                 "where those come from (else the last rows of the task's own file)");
  app.add_option("--results", in.results,
                 "file of what was computed so far; the same command goes on from it");
  app.add_option("--generate", in.generate,
                 "continue fixed prompts by so many tokens: repetition, loops")
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--prompts", in.prompts,
                 "a file of prompts for --generate, one a line, or .jsonl with a field `prompt`");
  app.add_option("--reference", in.reference,
                 "a model to compare with: KL, flipped answers, where texts part");
  app.add_option("--dtype", in.dtype, "of the computation")->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--activations", in.activations,
                 "quantized as the run trained them or the file's runtime does, or left in float")
      ->check(CLI::IsMember({"served", "float"}));
  app.add_option("--rows", in.rows, "windows at a time")->check(CLI::PositiveNumber);
  app.add_option("--threads", in.threads, "0: all");
  add_kv_option(app, in.kv);
  add_options(app, in.adapter);
  app.add_flag("--json", in.json, "print one JSON object");
  return run_command(app, argc, argv, [&] { return evaluate(in); });
}
