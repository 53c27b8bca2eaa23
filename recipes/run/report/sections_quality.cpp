// How good the model is: perplexity, tasks, agreement with the source, what it writes.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "recipes/run/report/chart.h"
#include "recipes/run/report/sections.h"

namespace qat::report {

using nlohmann::json;

namespace {

std::string file_name(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

std::string change(double ratio) {
  return fmt::format("{:+.2f}%", 100 * (ratio - 1));
}

// {"value", "low", "high"} of a metric.
Markup metric(const json& m, int digits) {
  return with_interval(m.at("value"), {m.at("low"), m.at("high")}, digits);
}

// Stages that results[key] has, in the order of the run.
std::vector<std::string> stages_of(const json& by_stage) {
  std::vector<std::string> stages;
  for (const char* stage : kStages)
    if (by_stage.contains(stage)) stages.push_back(stage);
  return stages;
}

bool is_share(const std::string& name) {
  return name.find("perplexity") == std::string::npos;
}

}  // namespace

Markup perplexities(const Runs& runs) {
  Markup content;
  std::vector<std::vector<Markup>> rows;
  for (const RunRecord& run : runs)
    for (const Recovery& r : recoveries(run)) {
      const std::string where = run_prefix(runs, run) + file_name(r.text);
      const auto add = [&](const char* stage, double value, const Interval& interval) {
        const bool source = std::string_view(stage) == "source";
        Markup repaired;
        if (std::string_view(stage) == "qat" && r.repaired) {
          repaired = text(fmt::format("{:.0f}%", 100 * *r.repaired));
          if (r.repaired_interval)
            repaired +=
                element("span", {{"class", "interval"}},
                        text(fmt::format(" ({:.0f}% to {:.0f}%)", 100 * r.repaired_interval->low,
                                         100 * r.repaired_interval->high)));
        }
        rows.push_back({text(where + ": " + stage_name(stage)), with_interval(value, interval, 3),
                        source ? Markup() : text(change(value / r.source)), repaired});
      };
      add("source", r.source, r.source_interval);
      if (r.ptq) add("ptq", *r.ptq, r.ptq_interval);
      if (r.qat) add(r.ptq ? "qat" : "trained", *r.qat, r.qat_interval);
    }
  if (rows.empty()) return {};
  return section(
      "perplexity", "Perplexity",
      table("Lower is better. In brackets the middle 95% over resampled windows.",
            {"Text and stage", "Perplexity", "Against the source", "Share of the damage repaired"},
            rows));
}

Markup tasks(const Runs& runs) {
  std::set<std::string> stages_seen;
  for (const RunRecord& run : runs)
    for (const std::string& stage : stages_of(run.evaluation("tasks"))) stages_seen.insert(stage);
  std::vector<std::string> stages, head = {"Task"};
  for (const char* stage : kStages)
    if (stages_seen.contains(stage)) {
      stages.push_back(stage);
      head.push_back(stage_name(stage));
    }
  if (stages.empty()) return {};
  head.push_back("Answers flipped");
  std::vector<std::vector<Markup>> rows;
  for (const RunRecord& run : runs) {
    const json& all = run.evaluation("tasks");
    if (all.empty()) continue;
    const std::string last = stages_of(all).back();
    for (const auto& [task, result] : all.at(last).items())
      for (const auto& [name, unused] : result.at("metrics").items()) {
        std::vector<Markup> row = {text(run_prefix(runs, run) + task + ", " + name)};
        for (const std::string& stage : stages)
          row.push_back(
              all.contains(stage) && all.at(stage).contains(task)
                  ? metric(all.at(stage).at(task).at("metrics").at(name), is_share(name) ? 3 : 2)
                  : Markup());
        const bool first = name == result.at("metrics").begin().key();
        Markup flipped;
        if (first && result.contains("flips"))
          flipped = text(fmt::format("{} of {}: {} to wrong, {} to right",
                                     result.at("flips").at("to_wrong").get<int64_t>() +
                                         result.at("flips").at("to_right").get<int64_t>(),
                                     result.at("flips").at("rows").get<int64_t>(),
                                     result.at("flips").at("to_wrong").get<int64_t>(),
                                     result.at("flips").at("to_right").get<int64_t>()));
        row.push_back(flipped);
        rows.push_back(std::move(row));
      }
  }
  return section(
      "tasks", "Tasks",
      table("As lm-evaluation-harness defines them; flipped: answers that are right on one side "
            "only, last stage against the source.",
            head, rows));
}

Markup agreement(const Runs& runs) {
  std::vector<std::vector<Markup>> rows;
  std::vector<Series> series;
  for (const RunRecord& run : runs) {
    const json& all = run.evaluation("agreement");
    for (const std::string& stage : stages_of(all))
      for (const auto& [path, a] : all.at(stage).items()) {
        rows.push_back({text(run_prefix(runs, run) + file_name(path) + ": " + stage_name(stage)),
                        with_interval(a.at("kl"), {a.at("kl_low"), a.at("kl_high")}, 5),
                        with_interval(100 * a.at("same_likeliest").get<double>(),
                                      {100 * a.at("same_likeliest_low").get<double>(),
                                       100 * a.at("same_likeliest_high").get<double>()},
                                      2)});
        Series s{run_prefix(runs, run) + file_name(path) + ": " + stage_name(stage), {}};
        for (const json& bucket : a.at("positions"))
          s.points.emplace_back(
              (bucket.at("from").get<double>() + bucket.at("to").get<double>()) / 2,
              bucket.at("kl").get<double>());
        if (s.points.size() > 1) series.push_back(std::move(s));
      }
  }
  if (rows.empty()) return {};
  Markup content = table(
      "KL divergence to the source in nats a token, and how often both find the "
      "same token likeliest.",
      {"Text and stage", "KL", "Same likeliest token, %"}, rows);
  if (!series.empty())
    content += draw(LineChart{.title = "KL by place in the window",
                              .description = "Mean over windows, a point for each range of places.",
                              .x_label = "token of the window",
                              .y_label = "KL, nats",
                              .series = series});
  return section("agreement", "Agreement with the source", content);
}

Markup passkeys(const Runs& runs) {
  Markup content;
  for (const RunRecord& run : runs) {
    const json& all = run.evaluation("tasks");
    for (const std::string& stage : stages_of(all)) {
      if (!all.at(stage).contains("passkey")) continue;
      const json& result = all.at(stage).at("passkey");
      if (!result.contains("cells")) continue;
      std::set<int64_t> lengths;
      std::set<double> depths;
      std::map<std::pair<int64_t, double>, double> found;
      for (const json& cell : result.at("cells")) {
        const int64_t length = cell.at("length");
        const double depth = cell.at("depth");
        lengths.insert(length);
        depths.insert(depth);
        found[{length, depth}] = cell.at("found");
      }
      HeatMap map{.title = run_prefix(runs, run) + "Passkeys found, " + stage_name(stage),
                  .description =
                      "A number hidden in filler text has to be written out; by length "
                      "of the prompt and by how deep in it the number stands.",
                  .row_label = "depth",
                  .column_label = "tokens",
                  .rows = {},
                  .columns = {},
                  .shares = {}};
      for (const int64_t length : lengths) map.columns.push_back(std::to_string(length));
      for (const double depth : depths) {
        map.rows.push_back(fmt::format("{:.0f}%", 100 * depth));
        for (const int64_t length : lengths)
          map.shares.push_back(found.contains({length, depth}) ? found.at({length, depth}) : -1);
      }
      content += draw(map);
    }
  }
  return section("passkey", "Long context", content);
}

Markup generation(const Runs& runs) {
  std::vector<std::vector<Markup>> rows;
  for (const RunRecord& run : runs) {
    const json& all = run.evaluation("generation");
    for (const std::string& stage : stages_of(all)) {
      const json& s = all.at(stage);
      std::vector<Markup> row = {
          text(run_prefix(runs, run) + stage_name(stage)),
          with_interval(s.at("repeated"), {s.at("repeated_low"), s.at("repeated_high")}, 3),
          with_interval(s.at("loops"), {s.at("loops_low"), s.at("loops_high")}, 2),
          text(fmt::format("{:.3f}, {:.3f}", s.at("distinct_1").get<double>(),
                           s.at("distinct_2").get<double>()))};
      if (s.contains("divergence")) {
        const json& d = s.at("divergence");
        row.push_back(text(fmt::format("token {:.0f}", d.at("median_token").get<double>())));
        row.push_back(with_interval(d.at("common"), {d.at("common_low"), d.at("common_high")}, 2));
      } else {
        row.insert(row.end(), 2, Markup());
      }
      rows.push_back(std::move(row));
    }
  }
  if (rows.empty()) return {};
  return section(
      "generation", "Generation",
      table(
          "Greedy continuations of fixed prompts: 4-grams that were there before, texts that end "
          "in a loop, different tokens and pairs, and where the text leaves the source's (median), "
          "with the share of it that is the same from the start.",
          {"Stage", "Repeated", "Loops", "Distinct 1, 2", "Leaves the source at", "In common"},
          rows));
}

Markup samples(const Runs& runs) {
  Markup content;
  std::vector<std::string> prompts;
  struct Column {
    std::string name;
    std::map<std::string, std::string> texts;
  };
  std::vector<Column> columns;
  for (const RunRecord& run : runs) {
    const json& all = run.evaluation("samples");
    for (const std::string& stage : stages_of(all)) {
      // Of several runs the last stage is what differs.
      if (runs.size() > 1 && stage != stages_of(all).back()) continue;
      Column column{run_prefix(runs, run) + stage_name(stage), {}};
      for (const json& sample : all.at(stage)) {
        const std::string prompt = sample.at("prompt");
        if (std::find(prompts.begin(), prompts.end(), prompt) == prompts.end())
          prompts.push_back(prompt);
        column.texts[prompt] = sample.at("text");
      }
      columns.push_back(std::move(column));
    }
  }
  for (const std::string& prompt : prompts) {
    Markup cards;
    for (const Column& column : columns) {
      const auto found = column.texts.find(prompt);
      if (found == column.texts.end()) continue;
      std::string_view written = found->second;
      Markup body;
      if (written.starts_with(prompt)) {
        body = element("span", {{"class", "prompt"}}, text(prompt));
        written.remove_prefix(prompt.size());
      }
      cards += element("article", element("h4", column.name) +
                                      element("p", {{"class", "sample"}}, body + text(written)));
    }
    content +=
        element("h3", fmt::format("“{}”", prompt)) + element("div", {{"class", "cards"}}, cards);
  }
  return section("samples", "Samples", content);
}

}  // namespace qat::report
