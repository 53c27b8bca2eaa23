#include "recipes/run/run_evaluation.h"

#include "engine/core/log.h"
#include "engine/data/eval_windows.h"
#include "models/decoder.h"
#include "models/generate.h"
#include "recipes/run/quant_summary.h"
#include "recipes/run/recipe/words.h"

namespace qat {

using nlohmann::json;

namespace {

constexpr const char* kStages[] = {"source", "ptq", "qat", "trained"};

// A window's logits of both models exist at once.
constexpr int64_t kComparedWindow = 256, kComparedWindows = 16;

}  // namespace

ForwardSpec evaluation_spec(const recipe::Recipe& recipe, const StageModel& model) {
  ForwardSpec spec;
  spec.config = model.config;
  spec.plan = model.plan;
  spec.adapters = model.adapters;
  spec.fuse = Switch::on;
  spec.build.dtype = recipe.evaluate.dtype;
  spec.build.weight_dtype = model.store.get("model.embed_tokens.weight").dtype;
  return spec;
}

RunEvaluation::RunEvaluation(const recipe::Recipe& recipe)
    : recipe_(recipe), file_(recipe.out + "/evaluation.jsonl") {
  const TaskSource source{.directory = recipe.evaluate.task_data,
                          .limit = recipe.evaluate.task_rows,
                          .shots = recipe.evaluate.shots,
                          .examples = recipe.evaluate.examples.path};
  for (const recipe::Metric metric : recipe.evaluate.metrics) {
    if (!is_task(metric)) continue;
    Task task;
    task.data = open_task(task_named(recipe::word_of(metric)), source, task.options);
    tasks_.push_back(std::move(task));
  }
}

EvaluatedModel RunEvaluation::evaluated(const StageModel& model) const {
  const ForwardSpec spec = evaluation_spec(recipe_, model);
  const std::string settings = fmt::format("{} {} {}", plan_identity(model.plan),
                                           name_of(spec.build.dtype), recipe::recipe_hash(recipe_));
  return {spec,         model.store,     model.kernels,
          model.stream, model.tokenizer, model_identity(model.store, settings)};
}

void RunEvaluation::measure(const StageModel& model, json& results) {
  if (!tasks_.empty()) tasks(model, results);
  if (recipe_.evaluate.has(recipe::Metric::generation)) generation(model, results);
  samples(model, results);
}

void RunEvaluation::tasks(const StageModel& model, json& results) {
  const EvaluatedModel asked = evaluated(model);
  json& all = results["tasks"];
  for (const Task& task : tasks_) {
    const std::string name = task.data.spec->name;
    const TaskResult result =
        run_task(asked, task.data, task.options, file_, fmt::format("{} {}", model.stage, name));
    log::info("{}: {}", model.stage, line_of(result));
    all[model.stage][name] = json_of(result);
    if (model.stage == "source" || !all.contains("source")) continue;
    const TaskResult source = task_from(name, all.at("source").at(name));
    all[model.stage][name]["flips"] = json_of(flips(source, result));
  }
}

void RunEvaluation::generation(const StageModel& model, json& results) {
  const std::vector<GeneratedText> texts =
      run_generation(evaluated(model), stability_prompts(), recipe_.evaluate.generated_tokens,
                     file_, model.stage + " generation");
  json& all = results["generation"];
  std::vector<GeneratedText> source;
  const bool compared = model.stage != "source" && all.contains("source");
  if (compared) source = texts_from(all.at("source"));
  const Stability stability = stability_of(texts, compared ? &source : nullptr);
  log::info("{}: {}", model.stage, line_of(stability));
  all[model.stage] = json_of(stability, texts);
}

void RunEvaluation::samples(const StageModel& model, json& results) {
  const recipe::GenerateOptions& options = recipe_.generate;
  if (options.prompts.empty()) return;
  std::vector<std::vector<int32_t>> prompts;
  size_t longest = 0;
  for (const std::string& prompt : options.prompts) {
    prompts.push_back(model.tokenizer.encode_with_special(prompt));
    longest = std::max(longest, prompts.back().size());
  }
  const int64_t context =
      std::min(model.config.max_positions, int64_t(longest) + options.max_tokens);
  Generator generator(evaluation_spec(recipe_, model), model.store, model.kernels, model.stream,
                      context);
  json& samples = results["samples"][model.stage] = json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int32_t> ids =
        generator.generate(prompts[i], {.max_tokens = options.max_tokens,
                                        .temperature = options.temperature,
                                        .seed = recipe_.seed});
    std::vector<int32_t> all = prompts[i];
    all.insert(all.end(), ids.begin(), ids.end());
    const std::string text = model.tokenizer.decode(all, true);
    log::debug("{} sample: {}", model.stage, text);
    samples.push_back({{"prompt", options.prompts[i]}, {"text", text}});
  }
}

void RunEvaluation::compare(const StageModel& model, const ModelSource& source,
                            const TokenizeOptions& tokenize, json& results) {
  if (!recipe_.evaluate.has(recipe::Metric::agreement)) return;
  Store store(model.store.backend());
  load_parameters(source, store, "", DType::f32, Category::masters);
  fill_rope_table(source.config(), store, "");
  const QuantPlan none;
  const ComparedModel reference{source.config(), none, store};
  const ComparedModel other{model.config, model.plan, model.store,
                            model.store.get("model.embed_tokens.weight").dtype, &model.adapters};
  const int64_t window = std::min(kComparedWindow, recipe_.evaluate.context);
  const int64_t most = recipe_.evaluate.max_windows > 0
                           ? std::min(kComparedWindows, recipe_.evaluate.max_windows)
                           : kComparedWindows;
  for (const std::string& path : recipe_.data.eval) {
    const auto windows = EvalWindows::open(path, tokenize, {.window = window, .max_windows = most});
    std::vector<Batch> batches;
    for (int64_t i = 0; i < windows.windows(); ++i) batches.push_back(windows.rows(i, 1));
    const Agreement agreement =
        compare_models(reference, other, model.kernels, model.stream, batches);
    log::info("{}: against the source on {}: {}", model.stage, path, line_of(agreement));
    results["agreement"][model.stage][path] = json_of(agreement);
  }
}

std::vector<std::string> task_table(const json& results) {
  std::vector<std::string> lines;
  if (!results.contains("tasks")) return lines;
  const json& tasks = results.at("tasks");
  std::vector<std::string> stages;
  std::string header = fmt::format("{:<30}", "tasks");
  for (const char* stage : kStages)
    if (tasks.contains(stage)) {
      stages.push_back(stage);
      header += fmt::format("{:>16}", stage);
    }
  lines.push_back(header);
  for (const auto& [name, first] : tasks.at(stages.front()).items())
    for (const auto& [metric, unused] : first.at("metrics").items()) {
      std::string line = fmt::format("  {:<28}", name + " " + metric);
      for (const std::string& stage : stages) {
        const json& m = tasks.at(stage).at(name).at("metrics").at(metric);
        const double value = m.at("value"),
                     half = (m.at("high").get<double>() - m.at("low").get<double>()) / 2;
        line += fmt::format("{:>16}", value < 100 ? fmt::format("{:.3f} +-{:.3f}", value, half)
                                                  : fmt::format("{:.4g} +-{:.2g}", value, half));
      }
      lines.push_back(line);
    }
  return lines;
}

}  // namespace qat
