#include "recipes/run/report/report.h"

#include <fmt/format.h>

#include <cmath>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/atomic_file.h"
#include "recipes/run/report/sections.h"
#include "recipes/run/report/style.h"

namespace qat::report {

Markup section(const char* id, const char* title, const Markup& content) {
  if (content.empty()) return {};
  const std::string heading = fmt::format("{}-heading", id);
  return element("section", {{"id", id}, {"aria-labelledby", heading}},
                 element("h2", {{"id", heading}}, text(title)) + content);
}

Markup paragraph(std::string_view plain) {
  return element("p", plain);
}

Markup table(std::string_view caption, const std::vector<std::string>& head,
             const std::vector<std::vector<Markup>>& rows) {
  Markup titles, body;
  for (const std::string& title : head) titles += element("th", {{"scope", "col"}}, text(title));
  for (const std::vector<Markup>& row : rows) {
    Markup cells;
    for (size_t i = 0; i < row.size(); ++i)
      cells += i == 0 ? element("th", {{"scope", "row"}}, row[i]) : element("td", row[i]);
    body += element("tr", cells);
  }
  // Focusable, so that the keyboard can scroll it.
  return element(
      "div", {{"class", "scroll"}, {"tabindex", "0"}},
      element("table", element("caption", caption) + element("thead", element("tr", titles)) +
                           element("tbody", body)));
}

Markup with_interval(double value, const Interval& interval, int digits) {
  constexpr double kLarge = 1000;  // from there on more digits say nothing
  const auto shown = [&](double number) {
    return std::abs(number) < kLarge ? fmt::format("{:.{}f}", number, digits)
                                     : fmt::format("{:.4g}", number);
  };
  return text(shown(value)) +
         element("span", {{"class", "interval"}},
                 text(fmt::format(" ({} to {})", shown(interval.low), shown(interval.high))));
}

std::string run_prefix(const Runs& runs, const RunRecord& run) {
  return runs.size() > 1 ? run.name() + ": " : "";
}

std::string stage_name(const std::string& stage) {
  if (stage == "source") return "source";
  if (stage == "ptq") return "PTQ (before training)";
  if (stage == "qat") return "QAT (after training)";
  return stage;
}

namespace {

Markup contents_of(const Runs& runs) {
  Markup content;
  for (const auto& make :
       {perplexities, tasks, agreement, passkeys, generation, samples, sizes, exports, curves,
        sensitivity, distributions, memory, speed, reproduction})
    content += make(runs);
  return content;
}

std::string document(const std::string& title, const Markup& header, const Markup& content) {
  const Markup head =
      Markup::literal(
          "<meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
          "<meta name=\"color-scheme\" content=\"light dark\">"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
          "style-src 'unsafe-inline'\">") +
      element("title", title) + element("style", Markup::literal(kStyle));
  const Markup body = element("header", header) + element("main", content);
  return "<!DOCTYPE html>\n" +
         element("html", {{"lang", "en"}}, element("head", head) + element("body", body)).html() +
         "\n";
}

Markup facts(const RunRecord& run) {
  Markup list;
  const auto add = [&](const char* what, const std::string& value) {
    if (value.empty()) return;
    list += element("div", element("dt", what) + element("dd", value));
  };
  add("Model", run.result.value("model", ""));
  const double parameters = run.result.value("parameters", 0.0);
  if (parameters > 0) add("Parameters", fmt::format("{:.1f} million", parameters / 1e6));
  add("Scheme", run.result.value("scheme", run.result.value("preset", "")));
  add("Steps", fmt::format("{}", run.result.value("steps", int64_t{0})));
  add("Run directory", run.path);
  return element("dl", {{"class", "facts"}}, list);
}

}  // namespace

std::string page(const RunRecord& run) {
  const Markup header = element("p", {{"class", "kind"}}, text("Report of a run of qat-train")) +
                        element("h1", run.name()) +
                        element("p", {{"class", "verdict"}}, text(verdict(run))) + facts(run);
  return document(run.name() + " - qat-train", header, contents_of({run}));
}

std::string page(const std::vector<RunRecord>& runs) {
  Markup verdicts;
  for (const RunRecord& run : runs)
    verdicts += element("li", element("strong", run.name()) + text(": " + verdict(run)));
  const Markup header = element("p", {{"class", "kind"}}, text("Comparison of runs of qat-train")) +
                        element("h1", fmt::format("{} runs", runs.size())) +
                        element("ul", {{"class", "verdicts"}}, verdicts);
  return document(fmt::format("{} runs - qat-train", runs.size()), header, contents_of(runs));
}

void write_report(const RunRecord& run) {
  const std::string path = run.path + "/report.html";
  try {
    write_file_atomically(path, page(run));
    log::info("report: {}", path);
  } catch (const std::exception& error) {
    log::warn("report: {}; qat-train --report {} makes it again", error.what(), run.path);
  }
}

std::string report_command(const std::vector<std::string>& directories, const std::string& out) {
  Runs runs;
  for (const std::string& directory : directories) runs.push_back(read_run(directory));
  const std::string path = !out.empty()       ? out
                           : runs.size() == 1 ? runs[0].path + "/report.html"
                                              : std::string("comparison.html");
  write_file_atomically(path, runs.size() == 1 ? page(runs[0]) : page(runs));
  return path;
}

}  // namespace qat::report
