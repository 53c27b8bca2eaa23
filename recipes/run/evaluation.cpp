#include "recipes/run/evaluation.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/train/progress.h"

namespace qat {

using nlohmann::ordered_json;

namespace {

// Places of a window in steps of four: 1 to 15, 16 to 63, 64 to 255, ...
ordered_json by_position(const std::vector<double>& values, size_t begin, const char* name,
                         double (*shown)(double)) {
  ordered_json buckets = ordered_json::array();
  for (size_t from = begin, end = 16; from < values.size(); from = end, end *= 4) {
    const size_t to = std::min(end, values.size());
    double sum = 0;
    for (size_t i = from; i < to; ++i) sum += values[i];
    buckets.push_back({{"from", from}, {"to", to - 1}, {name, shown(sum / double(to - from))}});
  }
  return buckets;
}

void add_interval(ordered_json& json, const std::string& prefix, const Interval& interval) {
  json[prefix + "low"] = interval.low;
  json[prefix + "high"] = interval.high;
}

}  // namespace

ordered_json json_of(const Perplexity& p) {
  ordered_json json = {{"perplexity", p.perplexity}};
  add_interval(json, "", bootstrap_exp_mean(p.window_nll));
  json["nll"] = p.nll;
  json["tokens"] = p.tokens;
  json["windows"] = p.windows;
  json["window_nll"] = p.window_nll;
  json["positions"] =
      by_position(p.position_nll, 1, "perplexity", [](double nll) { return std::exp(nll); });
  return json;
}

ordered_json json_of(const Agreement& a) {
  ordered_json json = {{"kl", a.kl}};
  add_interval(json, "kl_", bootstrap_mean(a.batch_kl));
  json["same_likeliest"] = a.same_likeliest;
  add_interval(json, "same_likeliest_", bootstrap_mean(a.batch_same));
  json["reference_perplexity"] = a.reference_perplexity;
  json["perplexity"] = a.perplexity;
  json["tokens"] = a.tokens;
  // The last place of a window predicts what is not there.
  const std::vector<double> scored(a.position_kl.begin(),
                                   a.position_kl.end() - !a.position_kl.empty());
  json["positions"] = by_position(scored, 0, "kl", [](double kl) { return kl; });
  return json;
}

ordered_json json_of(const TaskResult& result) {
  ordered_json json = {{"rows", result.rows}};
  if (result.left_out > 0) json["left_out"] = result.left_out;
  for (const TaskMetric& metric : result.metrics) {
    ordered_json& entry = json["metrics"][metric.name] = {{"value", metric.value}};
    add_interval(entry, "", metric.interval);
  }
  std::string right;
  for (const double r : result.right) right += r > 0 ? '1' : '0';
  json["right"] = right;
  for (const PasskeyCell& cell : result.cells)
    json["cells"].push_back({{"length", cell.length},
                             {"depth", cell.depth},
                             {"found", cell.found},
                             {"rows", cell.rows}});
  return json;
}

TaskResult task_from(const std::string& name, const nlohmann::json& json) {
  TaskResult result;
  result.task = name;
  result.rows = json.at("rows");
  result.left_out = json.value("left_out", int64_t{0});
  for (const auto& [metric, value] : json.at("metrics").items())
    result.metrics.push_back({metric, value.at("value"), {value.at("low"), value.at("high")}});
  for (const char c : json.at("right").get<std::string>()) result.right.push_back(c == '1');
  return result;
}

ordered_json json_of(const Flips& flips) {
  ordered_json json = {{"rows", flips.rows},
                       {"to_wrong", flips.to_wrong},
                       {"to_right", flips.to_right},
                       {"share", double(flips.to_wrong + flips.to_right) /
                                     double(std::max<int64_t>(flips.rows, 1))}};
  add_interval(json, "difference_", flips.difference);
  return json;
}

ordered_json json_of(const Stability& s, const std::vector<GeneratedText>& texts) {
  ordered_json json = {{"prompts", s.prompts}, {"repeated", s.repeated}};
  add_interval(json, "repeated_", s.repeated_interval);
  json["distinct_1"] = s.distinct_1;
  json["distinct_2"] = s.distinct_2;
  json["loops"] = s.loops;
  add_interval(json, "loops_", s.loops_interval);
  if (s.divergence) {
    json["divergence"] = {{"median_token", s.divergence->median_token},
                          {"same_texts", s.divergence->same_texts},
                          {"common", s.divergence->common}};
    add_interval(json["divergence"], "common_", s.divergence->common_interval);
  }
  json["texts"] = ordered_json::array();
  for (const GeneratedText& text : texts)
    json["texts"].push_back({{"prompt", text.prompt}, {"text", text.text}, {"ids", text.ids}});
  return json;
}

std::vector<GeneratedText> texts_from(const nlohmann::json& json) {
  std::vector<GeneratedText> texts;
  for (const nlohmann::json& text : json.at("texts"))
    texts.push_back({text.at("prompt"), text.at("text"), text.at("ids")});
  return texts;
}

std::string line_of(const TaskResult& result) {
  std::string line = fmt::format("{:<14}", result.task);
  for (const TaskMetric& metric : result.metrics)
    line += fmt::format("{} {:.4f} ({:.4f} to {:.4f})  ", metric.name, metric.value,
                        metric.interval.low, metric.interval.high);
  line += fmt::format("{} rows", result.rows);
  if (result.left_out > 0) line += fmt::format(", {} too long", result.left_out);
  return line;
}

std::string line_of(const Stability& s) {
  std::string line = fmt::format(
      "generation    repeated {:.3f} ({:.3f} to {:.3f})  loops {:.2f}  distinct {:.3f}, {:.3f}",
      s.repeated, s.repeated_interval.low, s.repeated_interval.high, s.loops, s.distinct_1,
      s.distinct_2);
  if (s.divergence)
    line += fmt::format("  leaves the reference at token {:.0f}, same texts {:.2f}",
                        s.divergence->median_token, s.divergence->same_texts);
  return line;
}

std::string line_of(const Agreement& a) {
  const Interval kl = bootstrap_mean(a.batch_kl), same = bootstrap_mean(a.batch_same);
  return fmt::format(
      "KL {:.5f} ({:.5f} to {:.5f})  same likeliest token {:.2f}% ({:.2f} to {:.2f})  {} tokens",
      a.kl, kl.low, kl.high, 100 * a.same_likeliest, 100 * same.low, 100 * same.high, a.tokens);
}

CountLine::CountLine(std::FILE* out, std::string label)
    : out_(out), label_(std::move(label)), terminal_(isatty(fileno(out)) != 0) {}

CountLine::~CountLine() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
}

void CountLine::update(int64_t done, int64_t total) {
  constexpr auto kRedraw = std::chrono::milliseconds(200);
  const auto now = Clock::now();
  if (!terminal_ || (drawn_ && now - last_ < kRedraw)) return;
  last_ = now;
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double left = done ? seconds / double(done) * double(total - done) : 0.0;
  const std::string text =
      fmt::format("\r{}  {}/{}  {} left\x1b[K", label_, done, total, duration_text(left));
  std::fwrite(text.data(), 1, text.size(), out_);
  std::fflush(out_);
}

TaskResult run_task(const EvaluatedModel& model, TaskData data, const TaskOptions& options,
                    ResultsFile& results, const std::string& label) {
  CountLine line(stderr, label);
  const TaskAnswers answers = ask(model, data, options, results,
                                  [&](int64_t done, int64_t total) { line.update(done, total); });
  return judge(data, answers);
}

std::vector<GeneratedText> run_generation(const EvaluatedModel& model,
                                          const std::vector<std::string>& prompts, int64_t tokens,
                                          ResultsFile& results, const std::string& label) {
  CountLine line(stderr, label);
  return generate_texts(model, prompts, tokens, results,
                        [&](int64_t done, int64_t total) { line.update(done, total); });
}

TaskData open_task(const TaskSpec& spec, const TaskSource& source, TaskOptions& options) {
  const bool chain = spec.kind == TaskKind::chain && source.shots > 0;
  TaskData data = read_task(spec, source.directory, chain ? 0 : source.limit);
  if (!chain) return data;
  if (!source.examples.empty()) {
    options.examples = read_chain_examples(source.examples, source.shots);
  } else {
    if (int64_t(data.rows.size()) <= source.shots)
      refuse(
          "{}: {} rows are not enough to take {} of them as examples; ask for fewer, or name a "
          "file of solved questions",
          data.path, data.rows.size(), source.shots);
    options.examples.assign(data.rows.end() - source.shots, data.rows.end());
    data.rows.resize(data.rows.size() - size_t(source.shots));
  }
  if (source.limit > 0 && int64_t(data.rows.size()) > source.limit)
    data.rows.resize(size_t(source.limit));
  return data;
}

}  // namespace qat
