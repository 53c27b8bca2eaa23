// What is deployed and what it took: sizes, memory, speed, files, and how to do it again.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/train/progress.h"
#include "engine/train/run_directory.h"
#include "recipes/run/report/sections.h"

namespace qat::report {

using nlohmann::json;

namespace {

std::string mebibytes(double bytes) {
  return fmt::format("{:.1f} MiB", bytes / 1048576.0);
}

double median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::nth_element(values.begin(), values.begin() + int64_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

const json& part(const RunRecord& run, const char* key) {
  static const json kNone = json::object();
  return run.result.contains(key) ? run.result.at(key) : kNone;
}

}  // namespace

Markup sizes(const Runs& runs) {
  std::vector<std::vector<Markup>> rows;
  for (const RunRecord& run : runs) {
    const json& size = part(run, "size");
    if (size.empty()) continue;
    const double before = size.at("source_bytes"), after = size.at("deployed_bytes");
    rows.push_back({text(run_prefix(runs, run) + "source, 16 bits a weight"),
                    text(mebibytes(before)), text("16.00"), Markup()});
    rows.push_back({text(run_prefix(runs, run) + "quantized, with its scales"),
                    text(mebibytes(after)),
                    text(fmt::format("{:.2f}", size.at("bits_per_weight").get<double>())),
                    text(fmt::format("{:.2f} times smaller", before / after))});
    if (size.contains("bits_per_quantized_weight"))
      rows.push_back(
          {text(run_prefix(runs, run) + "of that the quantized matrices"),
           text(mebibytes(size.at("quantized_bytes"))),
           text(fmt::format("{:.2f}", size.at("bits_per_quantized_weight").get<double>())),
           Markup()});
  }
  if (rows.empty()) return {};
  return section("size", "Size",
                 table("Tensors alone; scales and zero points count as what the scheme stores.",
                       {"Model", "Size", "Bits a weight", "Against the source"}, rows));
}

Markup memory(const Runs& runs) {
  std::vector<std::vector<Markup>> rows;
  for (const RunRecord& run : runs) {
    const json& memory = part(run, "memory");
    if (memory.empty()) continue;
    if (memory.contains("planned"))
      for (const auto& [category, bytes] : memory.at("planned").items())
        rows.push_back({text(run_prefix(runs, run) + category), text(mebibytes(bytes))});
    if (memory.contains("planned_total"))
      rows.push_back({element("strong", run_prefix(runs, run) + "planned in all"),
                      element("strong", mebibytes(memory.at("planned_total")))});
    rows.push_back({element("strong", run_prefix(runs, run) + "measured peak of the process"),
                    element("strong", mebibytes(memory.at("peak")))});
  }
  if (rows.empty()) return {};
  return section("memory", "Memory",
                 table("The plan of a training step, made before the first one, and the largest "
                       "resident size of the process, its program, data and evaluations included.",
                       {"Part", "Size"}, rows));
}

Markup speed(const Runs& runs) {
  std::vector<std::vector<Markup>> rows;
  for (const RunRecord& run : runs) {
    std::vector<double> rates;
    double tokens = 0, seconds = 0;
    for (const Step& step : run.steps)
      if (step.tokens_per_s > 0) {
        rates.push_back(step.tokens_per_s);
        tokens += step.tokens;
        seconds += step.tokens / step.tokens_per_s;
      }
    if (rates.empty()) continue;
    const json& machine = part(run, "machine");
    rows.push_back({text(runs.size() > 1 ? run.name() : "training"),
                    text(fmt::format("{:.0f}", median(rates))), text(fmt::format("{:.0f}", tokens)),
                    text(duration_text(seconds)),
                    text(fmt::format("{}, {} threads", machine.value("cpu", "not noted"),
                                     machine.value("threads", int64_t{0})))});
  }
  if (rows.empty()) return {};
  return section("speed", "Speed",
                 table("Median over the steps; the time is that of the steps alone.",
                       {"Run", "Tokens a second", "Tokens trained on", "Time", "Machine"}, rows));
}

Markup exports(const Runs& runs) {
  std::vector<std::vector<Markup>> rows;
  for (const RunRecord& run : runs)
    for (const auto& [format, done] : part(run, "exports").items()) {
      Markup compared;
      if (done.contains("kl"))
        compared = text(fmt::format("KL {:.1e}, same likeliest token {:.2f}%, perplexity {:.3f}",
                                    done.at("kl").get<double>(),
                                    100 * done.value("same_likeliest_token", 0.0),
                                    done.value("perplexity", 0.0)));
      rows.push_back({text(run_prefix(runs, run) + format), text(done.value("path", "")),
                      text(mebibytes(done.value("tensor_bytes", 0.0))),
                      text(done.value("verified", false) ? "bit for bit" : "no"), compared});
    }
  if (rows.empty()) return {};
  return section(
      "exports", "Exported files",
      table("Each was read back and compared with what was trained.",
            {"Format", "Path", "Tensors", "Read back equal", "Computes the same"}, rows));
}

Markup reproduction(const Runs& runs) {
  Markup content;
  for (const RunRecord& run : runs) {
    if (runs.size() > 1) content += element("h3", run.name());
    std::vector<std::vector<Markup>> rows;
    const auto add = [&](const char* what, const std::string& value) {
      if (!value.empty()) rows.push_back({text(what), text(value)});
    };
    const json &program = part(run, "program"), &machine = part(run, "machine");
    add("Program", program.value("name", "") + " " + program.value("version", ""));
    add("Compiler", program.value("compiler", ""));
    add("Machine", machine.value("cpu", ""));
    add("Recipe hash", run.result.value("recipe_hash", ""));
    content += table("Versions", {"What", "Which"}, rows);
    if (program.contains("command")) {
      content += paragraph(
          "The command that made this run, and one that repeats it from the "
          "recipe below:");
      content += element("pre", program.at("command").get<std::string>() + "\nqat-train " +
                                    run.path + "/recipe.yaml --out NEW-DIRECTORY");
    }
    if (!run.recipe.empty())
      content += element("details", element("summary", "The recipe, every default filled in") +
                                        element("pre", run.recipe));
  }
  return section("reproduction", "How to do it again", content);
}

}  // namespace qat::report
