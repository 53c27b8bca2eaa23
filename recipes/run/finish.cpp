#include "recipes/run/finish.h"

#include <fmt/format.h>

#include "engine/core/log.h"
#include "engine/train/run_directory.h"
#include "models/generate.h"
#include "recipes/run/exporting.h"

namespace qat {

using nlohmann::json;

std::vector<std::string> result_table(const json& results) {
  std::vector<std::string> lines;
  if (!results.contains("source")) return lines;
  for (const auto& [path, source] : results.at("source").items()) {
    const double before = source.at("perplexity");
    lines.push_back(fmt::format("{} ({} tokens)", path, source.at("tokens").get<int64_t>()));
    lines.push_back(fmt::format("  {:<22}{:>12}{:>12}", "", "perplexity", "vs source"));
    lines.push_back(fmt::format("  {:<22}{:>12.4f}",
                                results.value("source_label", "source (unquantized)"), before));
    const auto row = [&](const char* key, const char* label) {
      if (!results.contains(key)) return 0.0;
      const double p = results.at(key).at(path).at("perplexity");
      lines.push_back(
          fmt::format("  {:<22}{:>12.4f}{:>+11.2f}%", label, p, 100.0 * (p / before - 1)));
      return p;
    };
    row("rtn", "round to nearest");
    const double ptq = row("ptq", "PTQ (before training)");
    const double qat = row("qat", "QAT (after training)");
    row("trained", "trained, unquantized");
    if (ptq > before && qat > 0 && qat < ptq)
      lines.push_back(fmt::format("  training won back {:.0f}% of what quantization cost",
                                  100.0 * (ptq - qat) / (ptq - before)));
    else if (qat > 0)
      lines.push_back(
          "  training did not lower the perplexity of the quantized model on this text");
  }
  return lines;
}

namespace {

json generate_samples(const FinishInputs& in) {
  json samples = json::array();
  const recipe::GenerateOptions& options = in.recipe.generate;
  if (options.prompts.empty()) return samples;
  std::vector<std::vector<int32_t>> prompts;
  size_t longest = 0;
  for (const std::string& prompt : options.prompts) {
    prompts.push_back(in.tokenizer.encode_with_special(prompt));
    longest = std::max(longest, prompts.back().size());
  }
  ForwardSpec spec;
  spec.config = in.config;
  spec.plan = in.plan;
  spec.adapters = in.adapters;
  spec.fuse = Switch::on;
  spec.build.dtype = in.recipe.evaluate.dtype;
  spec.build.weight_dtype = in.store.get("model.embed_tokens.weight").dtype;
  const int64_t context = std::min(in.config.max_positions, int64_t(longest) + options.max_tokens);
  Generator generator(spec, in.store, in.kernels, in.stream, context);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int32_t> ids =
        generator.generate(prompts[i], {.max_tokens = options.max_tokens,
                                        .temperature = options.temperature,
                                        .seed = in.recipe.seed});
    std::vector<int32_t> all = prompts[i];
    all.insert(all.end(), ids.begin(), ids.end());
    const std::string text = in.tokenizer.decode(all, true);
    log::info("sample: {}", text);
    samples.push_back({{"prompt", options.prompts[i]}, {"text", text}});
  }
  return samples;
}

}  // namespace

void finish_run(const FinishInputs& in) {
  json result = {{"recipe_hash", recipe::recipe_hash(in.recipe)},
                 {"steps", in.recipe.train.steps},
                 {"skipped_steps", in.skipped_steps},
                 {"parameters", in.config.parameters()},
                 {"preset", in.recipe.quantize.preset},
                 {"quantized_linears", planned_linears(in.plan)},
                 {"evaluations", in.results}};
  result["samples"] = generate_samples(in);
  result["exports"] = export_all(in);
  const std::vector<std::string> table = result_table(in.results);
  for (const std::string& line : table) log::info("{}", line);
  RunDirectory(in.recipe.out).write_result(result);
  log::info("result: {}/result.json", in.recipe.out);
}

}  // namespace qat
