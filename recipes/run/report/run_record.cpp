#include "recipes/run/report/run_record.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <span>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/json.h"
#include "engine/train/run_directory.h"

namespace qat::report {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr size_t kMetricsBytes = size_t(1) << 30, kRecipeBytes = size_t(16) << 20;

double number(const json& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_number() ? found->get<double>()
                                                     : std::numeric_limits<double>::quiet_NaN();
}

std::vector<Step> read_metrics(const std::string& path) {
  std::vector<Step> steps;
  if (!fs::exists(path)) return steps;
  const std::string text = read_text_file(path, kMetricsBytes);
  for (size_t begin = 0, line = 1; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) {
      const json record = parse_json_object(std::string_view(text).substr(begin, end - begin),
                                            fmt::format("{}:{}", path, line));
      steps.push_back({number(record, "step"), number(record, "loss"),
                       number(record, "cross_entropy"), number(record, "kl"), number(record, "lr"),
                       number(record, "grad_norm"), number(record, "tokens"),
                       number(record, "tokens_per_s"), number(record, "enabled_layers")});
    }
    begin = end + 1;
  }
  return steps;
}

Interval interval_of(const json& measured) {
  const double p = measured.at("perplexity");
  return {measured.value("low", p), measured.value("high", p)};
}

std::vector<double> windows_of(const json& measured) {
  return measured.value("window_nll", std::vector<double>());
}

// A statistic of perplexities whose windows are resampled together.
std::optional<Interval> paired(const std::vector<std::vector<double>>& nll,
                               const std::function<double(const std::vector<double>&)>& statistic) {
  for (const auto& values : nll)
    if (values.empty() || values.size() != nll[0].size()) return std::nullopt;
  return bootstrap(nll[0].size(), [&](std::span<const uint32_t> rows) {
    std::vector<double> perplexities;
    for (const auto& values : nll) {
      double sum = 0;
      for (const uint32_t row : rows) sum += values[row];
      perplexities.push_back(std::exp(sum / double(rows.size())));
    }
    return statistic(perplexities);
  });
}

std::string percent(double ratio) {
  return fmt::format("{:.1f}%", 100 * ratio);
}

}  // namespace

std::string RunRecord::name() const {
  const fs::path place = fs::path(path).lexically_normal();
  const fs::path last = place.has_filename() ? place.filename() : place.parent_path().filename();
  return last.string();
}

const json& RunRecord::evaluation(const char* key) const {
  static const json kNone = json::object();
  const auto all = result.find("evaluations");
  if (all == result.end() || !all->contains(key)) return kNone;
  return all->at(key);
}

RunRecord record_of(const std::string& directory, json result) {
  const RunDirectory run(directory);
  RunRecord record{directory, std::move(result), read_metrics(run.metrics()), ""};
  if (fs::exists(run.recipe())) record.recipe = read_text_file(run.recipe(), kRecipeBytes);
  return record;
}

RunRecord read_run(const std::string& directory) {
  if (!fs::is_directory(directory))
    refuse("{}: expected a run directory, got {}", directory,
           fs::exists(directory) ? "a file" : "nothing of that name");
  std::optional<json> result = RunDirectory(directory).complete_result();
  if (!result)
    refuse(
        "{}: expected the result.json of a finished run, got none; run qat-train on its recipe "
        "to the end first",
        directory);
  return record_of(directory, std::move(*result));
}

std::vector<Recovery> recoveries(const RunRecord& run) {
  std::vector<Recovery> found;
  const json &sources = run.evaluation("source"), &ptqs = run.evaluation("ptq"),
             &qats = run.evaluation("qat");
  for (const auto& [text, source] : sources.items()) {
    Recovery r;
    r.text = text;
    r.source = source.at("perplexity");
    r.source_interval = interval_of(source);
    const std::vector<double> before = windows_of(source);
    if (ptqs.contains(text)) {
      r.ptq = ptqs.at(text).at("perplexity").get<double>();
      r.ptq_interval = interval_of(ptqs.at(text));
      r.ptq_ratio = paired({before, windows_of(ptqs.at(text))},
                           [](const std::vector<double>& p) { return p[1] / p[0]; });
    }
    // A model that was trained without a grid is compared all the same.
    const json& trained = qats.contains(text) ? qats : run.evaluation("trained");
    if (trained.contains(text)) {
      r.qat = trained.at(text).at("perplexity").get<double>();
      r.qat_interval = interval_of(trained.at(text));
      r.qat_ratio = paired({before, windows_of(trained.at(text))},
                           [](const std::vector<double>& p) { return p[1] / p[0]; });
    }
    const bool told = !r.ptq_ratio || r.ptq_ratio->low > 1;
    if (r.ptq && r.qat && *r.ptq > r.source && told) {
      r.repaired = (*r.ptq - *r.qat) / (*r.ptq - r.source);
      r.repaired_interval =
          paired({before, windows_of(ptqs.at(text)), windows_of(trained.at(text))},
                 [](const std::vector<double>& p) { return (p[1] - p[2]) / (p[1] - p[0]); });
    }
    found.push_back(std::move(r));
  }
  return found;
}

std::string verdict(const RunRecord& run) {
  const std::vector<Recovery> all = recoveries(run);
  const std::string scheme = run.result.value("preset", "none");
  const std::string what =
      scheme == "none" ? "The model" : "Quantized as " + scheme + ", the model";
  if (all.empty())
    return fmt::format("{} was trained for {} steps; no held-out text was measured (data.eval).",
                       what, run.result.value("steps", int64_t{0}));
  const Recovery& r = all.front();
  const std::string text = fs::path(r.text).filename().string();
  if (!r.ptq && !r.qat) return fmt::format("{} has perplexity {:.2f} on {}.", what, r.source, text);
  if (!r.qat)
    return fmt::format(
        "{} has perplexity {:.2f} on {}, {} {} the source's {:.2f}; it was not "
        "trained.",
        what, *r.ptq, text, percent(std::abs(*r.ptq / r.source - 1)),
        *r.ptq >= r.source ? "above" : "below", r.source);
  std::string sentence = fmt::format("{} has perplexity {:.2f} on {}", what, *r.qat, text);
  const bool same = r.qat_ratio && r.qat_ratio->low <= 1 && r.qat_ratio->high >= 1;
  if (same)
    sentence += fmt::format(", which this text does not tell from the source's {:.2f}", r.source);
  else
    sentence += fmt::format(", {} {} the source's {:.2f}", percent(std::abs(*r.qat / r.source - 1)),
                            *r.qat >= r.source ? "above" : "below", r.source);
  if (!r.ptq) return sentence + ".";
  if (!r.repaired)
    return sentence +
           fmt::format(
               "; quantization alone cost nothing that this text can tell ({:.2f} before "
               "training).",
               *r.ptq);
  if (*r.repaired <= 0)
    return sentence + fmt::format(
                          "; training won nothing back of what quantization cost ({:.2f} "
                          "before training).",
                          *r.ptq);
  return sentence + fmt::format(
                        "; training won back {:.0f}% of what quantization cost ({:.2f} "
                        "before training).",
                        100 * *r.repaired, *r.ptq);
}

}  // namespace qat::report
