// The page of a run: what it says, that it is well formed, and that nothing in a run's files gets
// out of its place in it.
#include "recipes/run/report/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <regex>
#include <stack>

#include "engine/core/error.h"
#include "recipes/run/report/sections.h"
#include "tests/evaluation/folder.h"

namespace qat::report {
namespace {

using nlohmann::json;

json measured(double nll, double step) {
  std::vector<double> windows;
  double sum = 0;
  for (int i = 0; i < 40; ++i) sum += windows.emplace_back(nll + step * std::sin(i));
  return {{"perplexity", std::exp(sum / 40)},
          {"low", 1.0},
          {"high", 99.0},
          {"tokens", 4000},
          {"nll", sum / 40},
          {"window_nll", windows}};
}

RunRecord small_run() {
  RunRecord run;
  run.path = "runs/small";
  run.result = {{"preset", "w8a8"}, {"steps", 20}, {"complete", true}};
  run.result["evaluations"] = {{"source", {{"held.txt", measured(2.0, 0.1)}}},
                               {"ptq", {{"held.txt", measured(2.2, 0.1)}}},
                               {"qat", {{"held.txt", measured(2.05, 0.1)}}}};
  for (int i = 1; i <= 20; ++i)
    run.steps.push_back({double(i), 3.0 / i, 1.0, 0.5 / i, 1e-4, 1.0, 1024, 500, double(i / 5)});
  return run;
}

// Elements that are not closed in order, of the tags a page has; void elements aside.
std::string unbalanced(const std::string& html) {
  static const std::regex kTag("<(/?)([a-zA-Z][a-zA-Z0-9]*)[^>]*>");
  std::stack<std::string> open;
  for (std::sregex_iterator i(html.begin(), html.end(), kTag), end; i != end; ++i) {
    const std::string tag = (*i)[2];
    if (tag == "meta") continue;
    if ((*i)[1].length() == 0) {
      open.push(tag);
    } else {
      if (open.empty() || open.top() != tag) return "</" + tag + ">";
      open.pop();
    }
  }
  return open.empty() ? "" : "<" + open.top() + ">";
}

TEST(Report, SaysWhatQuantizationCostAndWhatCameBack) {
  const RunRecord run = small_run();
  const Recovery r = recoveries(run).at(0);
  const double expected = (std::exp(2.2) - std::exp(2.05)) / (std::exp(2.2) - std::exp(2.0));
  EXPECT_NEAR(*r.repaired, expected, 0.01);
  EXPECT_LT(r.repaired_interval->low, *r.repaired + 1e-9);
  EXPECT_GT(r.repaired_interval->high, *r.repaired - 1e-9);
  // The windows differ far more than the stages, which are compared window by window.
  EXPECT_GT(r.qat_ratio->low, 1.04);
  EXPECT_LT(r.qat_ratio->high, 1.06);
  const std::string sentence = verdict(run);
  EXPECT_NE(sentence.find("won back 77% of what quantization cost"), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("5.1% above the source's"), std::string::npos) << sentence;
}

TEST(Report, SaysSoWhereTheTextDoesNotTellTheModelsApart) {
  RunRecord run = small_run();
  json noisy = measured(2.0, 0.1);
  for (size_t i = 0; i < 40; ++i)
    noisy["window_nll"][i] = noisy["window_nll"][i].get<double>() + (i % 2 ? 0.05 : -0.05);
  run.result["evaluations"]["qat"]["held.txt"] = noisy;
  EXPECT_NE(verdict(run).find("does not tell from the source's"), std::string::npos)
      << verdict(run);
}

TEST(Report, NothingIsRepairedWhereTheDamageCannotBeTold) {
  RunRecord run = small_run();
  json noisy = measured(2.001, 0.1);
  for (size_t i = 0; i < 40; ++i)
    noisy["window_nll"][i] = noisy["window_nll"][i].get<double>() + (i % 2 ? 0.05 : -0.05);
  run.result["evaluations"]["ptq"]["held.txt"] = noisy;
  EXPECT_FALSE(recoveries(run).at(0).repaired);
  EXPECT_NE(verdict(run).find("cost nothing that this text can tell"), std::string::npos);
}

TEST(Report, SaysSoWhereNothingWasMeasuredOrTrained) {
  RunRecord run = small_run();
  run.result["evaluations"].erase("qat");
  EXPECT_NE(verdict(run).find("it was not trained"), std::string::npos);
  run.result["evaluations"] = json::object();
  EXPECT_NE(verdict(run).find("no held-out text was measured"), std::string::npos);
  EXPECT_EQ(unbalanced(page(run)), "");
}

TEST(Report, IsWellFormedAndNeedsNothingFromOutside) {
  const std::string html = page(small_run());
  EXPECT_EQ(unbalanced(html), "");
  for (const char* outside : {"http:", "https:", "<script", "<link", "<img", "@import", "url("})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  EXPECT_NE(html.find("default-src 'none'"), std::string::npos);
  EXPECT_NE(html.find("lang=\"en\""), std::string::npos);
  EXPECT_NE(html.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_NE(html.find("@media print"), std::string::npos);
  // Where layers joined is marked in the curves: 5, 10, 15 and 20 of the steps.
  EXPECT_NE(html.find("1 layers"), std::string::npos);
}

TEST(Report, TablesNameTheirRowsAndColumns) {
  const std::string html = page(small_run());
  EXPECT_NE(html.find("<th scope=\"col\">"), std::string::npos);
  EXPECT_NE(html.find("<th scope=\"row\">"), std::string::npos);
  size_t tables = 0, captions = 0;
  for (size_t at = html.find("<table"); at != std::string::npos; at = html.find("<table", at + 1))
    ++tables;
  for (size_t at = html.find("<caption"); at != std::string::npos;
       at = html.find("<caption", at + 1))
    ++captions;
  EXPECT_EQ(tables, captions);
  EXPECT_GT(tables, 0u);
}

// Every place of a run's files that a stranger may fill.
RunRecord hostile_run() {
  const std::string evil =
      "</pre></style></title><script>alert(1)</script><img src=x onerror=\"a\">'";
  RunRecord run = small_run();
  run.path = "runs/" + std::string("<script>alert(2)</script>");
  run.recipe = "model: " + evil;
  run.result["model"] = evil;
  run.result["preset"] = evil;
  run.result["scheme"] = evil;
  run.result["recipe_hash"] = evil;
  run.result["program"] = {{"name", evil}, {"version", evil}, {"command", evil}};
  run.result["machine"] = {{"cpu", evil}, {"threads", 2}};
  run.result["exports"] = {{evil, {{"path", evil}, {"tensor_bytes", 5}, {"verified", true}}}};
  json& all = run.result["evaluations"];
  all["source"] = {{evil, measured(2.0, 0.1)}};
  all["samples"]["qat"] = {{{"prompt", evil}, {"text", evil + " and more " + evil}}};
  const json metric = {{"value", 0.5}, {"low", 0.4}, {"high", 0.6}};
  all["tasks"]["qat"][evil] = {{"metrics", {{evil, metric}}}};
  all["distributions"] = {{{"name", evil},
                           {"what", evil},
                           {"sides",
                            {{{"name", evil}, {"low", -1}, {"high", 1}, {"counts", {1, 2}}},
                             {{"name", evil}, {"low", -1}, {"high", 1}, {"counts", {2, 1}}}}}}};
  return run;
}

TEST(Report, HostileTextInjectsNothing) {
  for (const std::string& html : {page(hostile_run()), page({hostile_run(), small_run()})}) {
    EXPECT_EQ(html.find("<script"), std::string::npos);
    EXPECT_EQ(html.find("<img"), std::string::npos);
    EXPECT_EQ(unbalanced(html), "");
    EXPECT_NE(html.find("&lt;script&gt;alert(1)"), std::string::npos);
    EXPECT_NE(html.find("&lt;script&gt;alert(2)"), std::string::npos);
  }
}

TEST(Report, ComparesRuns) {
  RunRecord other = small_run();
  other.path = "runs/other/";
  const std::string html = page({small_run(), other});
  EXPECT_NE(html.find("small: held.txt: QAT (after training)"), std::string::npos);
  EXPECT_NE(html.find("other: held.txt: QAT (after training)"), std::string::npos);
  EXPECT_NE(html.find("class=\"legend\""), std::string::npos);
  EXPECT_EQ(unbalanced(html), "");
}

TEST(Report, IsReadFromARunDirectory) {
  const Folder folder;
  folder.write("result.json", small_run().result.dump());
  folder.write("metrics.jsonl",
               "{\"step\":1,\"loss\":2.5,\"kl\":null}\n{\"step\":2,\"loss\":2.0}\n");
  folder.write("recipe.yaml", "out: here\n");
  const std::string path = report_command({folder.path()}, "");
  EXPECT_EQ(path, folder.path() + "/report.html");
  const std::string html = folder.read("report.html");
  EXPECT_NE(html.find("From 2.5 at step 1 to 2 at step 2"), std::string::npos);
  EXPECT_NE(html.find("out: here"), std::string::npos);
}

TEST(Report, RefusesWhatIsNoFinishedRun) {
  const Folder folder;
  for (const std::string& path : {folder.path(), folder.path() + "/nothing"}) try {
      report_command({path}, "");
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::refused);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
    }
}

}  // namespace
}  // namespace qat::report
