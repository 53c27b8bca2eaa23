// How the run went: curves with the stages of quantization, what each layer suffers, what the
// numbers in it look like.
#include <fmt/format.h>

#include <cmath>

#include "recipes/run/report/chart.h"
#include "recipes/run/report/sections.h"

namespace qat::report {

using nlohmann::json;

namespace {

// Where layers joined. Of several runs the marks would not be told apart.
std::vector<Mark> stage_marks(const Runs& runs) {
  std::vector<Mark> marks;
  if (runs.size() != 1) return marks;
  double enabled = 0;
  for (const Step& step : runs[0].steps) {
    if (!std::isfinite(step.enabled_layers) || step.enabled_layers == enabled) continue;
    enabled = step.enabled_layers;
    marks.push_back({step.step, fmt::format("{:.0f} layers", enabled)});
  }
  return marks;
}

std::vector<Series> series_of(const Runs& runs, double Step::*member) {
  std::vector<Series> all;
  for (const RunRecord& run : runs) {
    Series series{runs.size() > 1 ? run.name() : "", {}};
    for (const Step& step : run.steps) series.points.emplace_back(step.step, step.*member);
    all.push_back(std::move(series));
  }
  return all;
}

bool any_above_zero(const Runs& runs, double Step::*member) {
  for (const RunRecord& run : runs)
    for (const Step& step : run.steps)
      if (step.*member > 0) return true;
  return false;
}

std::string ends(const Runs& runs, double Step::*member) {
  std::string sentence;
  for (const RunRecord& run : runs) {
    if (run.steps.empty()) continue;
    sentence += fmt::format("{}From {} at step {:.0f} to {} at step {:.0f}. ",
                            runs.size() > 1 ? run.name() + ": " : "",
                            number_text(run.steps.front().*member), run.steps.front().step,
                            number_text(run.steps.back().*member), run.steps.back().step);
  }
  return sentence;
}

}  // namespace

Markup curves(const Runs& runs) {
  const std::vector<Mark> marks = stage_marks(runs);
  const std::string note =
      marks.empty() ? "" : "Vertical lines: the step from which so many layers are quantized.";
  Markup content = draw(LineChart{.title = "Loss",
                                  .description = ends(runs, &Step::loss) + note,
                                  .x_label = "step",
                                  .y_label = "loss",
                                  .series = series_of(runs, &Step::loss),
                                  .marks = marks});
  if (any_above_zero(runs, &Step::kl))
    content += draw(LineChart{.title = "KL divergence to the teacher, logarithmic",
                              .description = ends(runs, &Step::kl) + note,
                              .x_label = "step",
                              .y_label = "KL, nats",
                              .series = series_of(runs, &Step::kl),
                              .marks = marks,
                              .y = Axis::logarithmic});
  if (!content.empty())
    content += draw(LineChart{.title = "Learning rate",
                              .description = "",
                              .x_label = "step",
                              .y_label = "learning rate",
                              .series = series_of(runs, &Step::learning_rate)});
  if (any_above_zero(runs, &Step::grad_norm))
    content += draw(LineChart{.title = "Gradient norm, logarithmic",
                              .description = "Before clipping.",
                              .x_label = "step",
                              .y_label = "L2 norm",
                              .series = series_of(runs, &Step::grad_norm),
                              .marks = marks,
                              .y = Axis::logarithmic});
  return section("training", "Training", content);
}

// What each matrix suffers at each width, and the width it got.
Markup chosen_bits(const Runs& runs, const RunRecord& run) {
  const json& chosen = run.evaluation("auto_bits");
  if (chosen.empty()) return {};
  std::vector<std::string> head = {"layer", "matrices"};
  for (const auto& [bits, uniform] : chosen.at("uniform").items()) head.push_back(bits + " bits");
  head.push_back("chosen");
  std::vector<std::vector<Markup>> rows;
  for (const json& unit : chosen.at("units")) {
    std::string names;
    for (const json& name : unit.at("linears"))
      names += (names.empty() ? "" : ", ") + name.get<std::string>();
    std::vector<Markup> row = {text(fmt::format("{}", unit.at("layer").get<int64_t>())),
                               text(names)};
    for (const auto& [bits, kl] : unit.at("kl").items())
      row.push_back(text(fmt::format("{:.2e}", kl.get<double>())));
    row.push_back(text(fmt::format("{}", unit.at("bits").get<int64_t>())));
    rows.push_back(std::move(row));
  }
  std::string uniforms;
  for (const auto& [bits, uniform] : chosen.at("uniform").items())
    uniforms += fmt::format(" {} bits for each: {:.3f} bits a weight, KL {:.2e}.", bits,
                            uniform.at("bits").get<double>(), uniform.at("kl").get<double>());
  return table(
      fmt::format("{}Bits of each matrix, by the KL (nats a token) when its weights alone are "
                  "rounded: {:.3f} bits a weight of {} allowed, KL {:.2e} together.{}",
                  run_prefix(runs, run), chosen.at("bits").get<double>(),
                  chosen.at("budget").get<double>(), chosen.at("kl").get<double>(), uniforms),
      head, rows);
}

Markup sensitivity(const Runs& runs) {
  Markup content;
  for (const RunRecord& run : runs) {
    const json& layers = run.evaluation("sensitivity");
    BarChart chart{
        .title = run_prefix(runs, run) + "What each layer suffers when it alone is quantized",
        .description = "KL divergence to the unquantized model, before training.",
        .value_label = "KL, nats a token",
        .bars = {}};
    for (const json& layer : layers)
      chart.bars.emplace_back(fmt::format("layer {}", layer.at("layer").get<int64_t>()),
                              layer.at("kl").get<double>());
    content += draw(chart) + chosen_bits(runs, run);
  }
  return section("sensitivity", "Sensitivity", content);
}

Markup distributions(const Runs& runs) {
  Markup content;
  for (const RunRecord& run : runs)
    for (const json& shown : run.evaluation("distributions")) {
      LineChart chart{.title = run_prefix(runs, run) + shown.at("name").get<std::string>(),
                      .description = shown.at("what"),
                      .x_label = "value",
                      .y_label = "share of values, logarithmic",
                      .series = {},
                      .marks = {},
                      .y = Axis::logarithmic};
      for (const json& side : shown.at("sides")) {
        Series series{side.at("name"), {}};
        const double low = side.at("low"), high = side.at("high");
        const std::vector<double> counts = side.at("counts");
        double total = 0;
        for (const double count : counts) total += count;
        const double width = (high - low) / double(counts.size());
        for (size_t i = 0; i < counts.size(); ++i)
          series.points.emplace_back(low + (double(i) + 0.5) * width,
                                     counts[i] / std::max(total, 1.0));
        chart.series.push_back(std::move(series));
      }
      if (shown.contains("clip")) {
        chart.marks.push_back({shown.at("clip").at("low"), "clip"});
        chart.marks.push_back({shown.at("clip").at("high"), "clip"});
      }
      content += draw(chart);
    }
  return section("distributions", "Weights and activations", content);
}

}  // namespace qat::report
