#include "recipes/run/finish.h"

#include <fmt/format.h>

#include "engine/core/log.h"
#include "engine/train/run_directory.h"
#include "recipes/run/exporting.h"
#include "recipes/run/quant_summary.h"
#include "recipes/run/report/report.h"
#include "recipes/run/run_evaluation.h"
#include "recipes/run/run_facts.h"

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
      if (results.at(key).at(path).at("tokens") != source.at("tokens")) {
        lines.push_back(fmt::format("  {:<22}{:>12.4f}  of {} tokens: not to be compared", label, p,
                                    results.at(key).at(path).at("tokens").get<int64_t>()));
        return 0.0;
      }
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

// Of the last stage that was measured.
json samples_of(const json& results) {
  const json samples = results.value("samples", json::object());
  for (const char* stage : {"trained", "qat", "ptq", "source"})
    if (samples.contains(stage)) return samples.at(stage);
  return json::array();
}

std::string scheme_of(const FinishInputs& in) {
  const std::string widths = mixed_widths_text(in.plan);
  return recipe::scheme_text(in.recipe.quantize) + (widths.empty() ? "" : "; " + widths);
}

}  // namespace

void finish_run(const FinishInputs& in) {
  json result = {{"recipe_hash", recipe::recipe_hash(in.recipe)},
                 {"steps", in.recipe.train.steps},
                 {"skipped_steps", in.skipped_steps},
                 {"parameters", in.config.parameters()},
                 {"preset", in.recipe.quantize.preset},
                 {"quantized_linears", planned_linears(in.plan)},
                 {"evaluations", in.results},
                 {"model", in.source.empty() ? "from scratch" : in.source},
                 {"scheme", scheme_of(in)},
                 {"size", size_json(in.config, in.plan)}};
  result.update(in.facts);
  result["samples"] = samples_of(in.results);
  for (const json& sample : result["samples"])
    log::info("sample: {}", sample.at("text").get_ref<const std::string&>());
  result["exports"] = export_all(in);
  std::vector<std::string> table = result_table(in.results);
  const std::vector<std::string> tasks = task_table(in.results);
  table.insert(table.end(), tasks.begin(), tasks.end());
  for (const std::string& line : table) log::info("{}", line);
  report::write_report(report::record_of(in.recipe.out, result));
  RunDirectory(in.recipe.out).write_result(result);
  log::info("result: {}/result.json", in.recipe.out);
}

}  // namespace qat
