#include "models/evaluation/tasks.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "models/evaluation/chain.h"
#include "models/generate.h"

namespace qat {

using nlohmann::json;

namespace {

// Everything that decides what is asked, and how.
std::string key_of(const EvaluatedModel& model, const TaskData& data, const TaskOptions& options,
                   const char* part) {
  std::string text = fmt::format("{} {:016x} {} {}", data.spec->name, data.hash, data.rows.size(),
                                 options.max_tokens);
  for (const TaskRow& row : options.examples) text += row.question + row.answer;
  return fmt::format("{}-{:016x}-{}", model.identity, XXH3_64bits(text.data(), text.size()), part);
}

std::vector<Continuation> continuations(const EvaluatedModel& model, const TaskData& data,
                                        const TaskOptions& options) {
  std::vector<Continuation> requests;
  for (const TaskRow& row : data.rows) {
    if (data.spec->kind == TaskKind::chain)
      requests.push_back(
          encode_pair(model.tokenizer, chain_prompt(options.examples, row), " " + row.answer));
    for (const TaskRow::Pair& pair : row.pairs)
      requests.push_back(encode_pair(model.tokenizer, pair.context, pair.continuation));
  }
  return requests;
}

int64_t drop_too_long(const EvaluatedModel& model, TaskData& data) {
  const int64_t most = longest_context(model.spec.config);
  const int64_t dropped = std::erase_if(data.rows, [&](const TaskRow& row) {
    const TaskRow::Pair& pair = row.pairs[0];
    return int64_t(encode_pair(model.tokenizer, pair.context, pair.continuation).ids.size()) >
           most + 1;
  });
  if (data.rows.empty())
    refuse("{}: every row is longer than the model's context of {} tokens; leave {} out", data.path,
           most, data.spec->name);
  return dropped;
}

void ask_pairs(const EvaluatedModel& model, const TaskData& data, const TaskOptions& options,
               ResultsFile& results, const TaskProgress& progress, TaskAnswers& answers) {
  const std::vector<Continuation> requests = continuations(model, data, options);
  answers.pairs.resize(requests.size());
  for (const Continuation& request : requests) answers.tokens.push_back(request.scored);
  const std::string key = key_of(model, data, options, "pairs");
  std::vector<uint8_t> known(requests.size(), 0);
  results.take_records(key, [&](const json& record) {
    for (size_t i = 0; i < record.at("requests").size(); ++i) {
      const size_t request = record.at("requests").at(i);
      if (request >= requests.size()) return false;
      answers.pairs[request] = {record.at("log_likelihood").at(i), record.at("greedy").at(i)};
      known[request] = 1;
    }
    return true;
  });
  Scorer scorer(model.spec, model.store, model.kernels, model.stream);
  int64_t done = 0;
  for (const std::vector<size_t>& batch : scorer.batches(requests)) {
    const bool all_known =
        std::all_of(batch.begin(), batch.end(), [&](size_t i) { return known[i] != 0; });
    if (!all_known) {
      const std::vector<Likelihood> found = scorer.score(requests, batch);
      json record = {{"task", data.spec->name},
                     {"requests", batch},
                     {"log_likelihood", json::array()},
                     {"greedy", json::array()}};
      for (size_t i = 0; i < batch.size(); ++i) {
        answers.pairs[batch[i]] = found[i];
        record["log_likelihood"].push_back(found[i].log_likelihood);
        record["greedy"].push_back(found[i].greedy);
      }
      results.add(key, record);
    }
    done += int64_t(batch.size());
    if (progress) progress(done, int64_t(requests.size()));
  }
}

void ask_chains(const EvaluatedModel& model, const TaskData& data, const TaskOptions& options,
                ResultsFile& results, const TaskProgress& progress, TaskAnswers& answers) {
  const std::string key = key_of(model, data, options, "chains");
  answers.chains.resize(data.rows.size());
  std::vector<uint8_t> known(data.rows.size(), 0);
  results.take_records(key, [&](const json& record) {
    const size_t row = record.at("row");
    if (row >= known.size()) return false;
    answers.chains[row] = record.at("text");
    known[row] = 1;
    return true;
  });
  const int64_t most = longest_context(model.spec.config) - options.max_tokens;
  if (most <= 0)
    refuse("{}: a solution of {} tokens does not fit the model's context of {}", data.spec->name,
           options.max_tokens, longest_context(model.spec.config));
  std::vector<std::vector<int32_t>> prompts;
  size_t longest = 0;
  for (const TaskRow& row : data.rows) {
    std::vector<int32_t> ids =
        model.tokenizer.encode_with_special(chain_prompt(options.examples, row));
    if (int64_t(ids.size()) > most) ids.erase(ids.begin(), ids.end() - most);
    longest = std::max(longest, ids.size());
    prompts.push_back(std::move(ids));
  }
  if (std::find(known.begin(), known.end(), 0) == known.end()) return;
  Generator generator(model.spec, model.store, model.kernels, model.stream,
                      int64_t(longest) + options.max_tokens);
  for (size_t row = 0; row < prompts.size(); ++row) {
    if (!known[row]) {
      std::vector<int32_t> written;
      std::string text;
      generator.generate(prompts[row], {.max_tokens = options.max_tokens}, [&](int32_t token) {
        written.push_back(token);
        text = model.tokenizer.decode(written, true);
        return chain_end(text) == std::string::npos ? Next::token : Next::stop;
      });
      answers.chains[row] = text.substr(0, chain_end(text));
      results.add(key, {{"task", data.spec->name}, {"row", row}, {"text", answers.chains[row]}});
    }
    if (progress) progress(int64_t(row) + 1, int64_t(prompts.size()));
  }
}

// ---- Verdicts -----------------------------------------------------------------------------------

size_t best(const std::vector<double>& values) {
  return size_t(std::max_element(values.begin(), values.end()) - values.begin());
}

void add_mean(TaskResult& result, const char* name, const std::vector<double>& values) {
  result.metrics.push_back({name, mean(values), bootstrap_mean(values)});
}

void judge_choices(const TaskData& data, const TaskAnswers& answers, TaskResult& result) {
  std::vector<double> acc, acc_norm;
  size_t at = 0;
  for (const TaskRow& row : data.rows) {
    std::vector<double> plain, normalised;
    for (const TaskRow::Pair& pair : row.pairs) {
      plain.push_back(answers.pairs[at++].log_likelihood);
      normalised.push_back(plain.back() / double(pair.length));
    }
    acc.push_back(best(plain) == row.gold ? 1.0 : 0.0);
    acc_norm.push_back(best(normalised) == row.gold ? 1.0 : 0.0);
  }
  add_mean(result, "acc", acc);
  if (data.spec->kind == TaskKind::choices) add_mean(result, "acc_norm", acc_norm);
  result.right = std::move(acc);
}

std::vector<double> greedy(const TaskAnswers& answers) {
  std::vector<double> right;
  for (const Likelihood& pair : answers.pairs) right.push_back(pair.greedy ? 1.0 : 0.0);
  return right;
}

void judge_cloze(const TaskAnswers& answers, TaskResult& result) {
  std::vector<double> nll;
  for (const Likelihood& pair : answers.pairs) nll.push_back(-pair.log_likelihood);
  result.right = greedy(answers);
  add_mean(result, "acc", result.right);
  result.metrics.push_back({"perplexity", std::exp(mean(nll)), bootstrap_exp_mean(nll)});
}

void judge_passkey(const TaskData& data, const TaskAnswers& answers, TaskResult& result) {
  result.right = greedy(answers);
  add_mean(result, "acc", result.right);
  // Prompts of one length differ by a few tokens, so lengths are grouped as people name them.
  constexpr double kGroup = 512.0;
  std::map<std::pair<int64_t, double>, PasskeyCell> cells;
  for (size_t i = 0; i < data.rows.size(); ++i) {
    const TaskRow& row = data.rows[i];
    const int64_t length = int64_t(std::lround(double(row.passkey_length) / kGroup) * kGroup);
    PasskeyCell& cell = cells[{length, row.passkey_depth}];
    cell.length = length;
    cell.depth = row.passkey_depth;
    cell.found += result.right[i];
    ++cell.rows;
  }
  for (auto& [place, cell] : cells) {
    cell.found /= double(cell.rows);
    result.cells.push_back(cell);
  }
}

void judge_chains(const TaskData& data, const TaskAnswers& answers, TaskResult& result) {
  std::vector<double> strict, flexible, nll, tokens;
  for (size_t i = 0; i < data.rows.size(); ++i) {
    const std::string gold = strict_answer(data.rows[i].answer);
    const std::string& text = answers.chains[i];
    strict.push_back(!gold.empty() && strict_answer(text) == gold ? 1.0 : 0.0);
    flexible.push_back(!gold.empty() && flexible_answer(text) == gold ? 1.0 : 0.0);
    nll.push_back(-answers.pairs[i].log_likelihood);
    tokens.push_back(double(answers.tokens[i]));
  }
  add_mean(result, "exact_match_strict", strict);
  add_mean(result, "exact_match_flexible", flexible);
  const RowStatistic perplexity = [&](std::span<const uint32_t> rows) {
    double sum = 0, count = 0;
    for (const uint32_t row : rows) {
      sum += nll[row];
      count += tokens[row];
    }
    return std::exp(sum / count);
  };
  std::vector<uint32_t> all(nll.size());
  std::iota(all.begin(), all.end(), 0u);
  result.metrics.push_back(
      {"reference_perplexity", perplexity(all), bootstrap(nll.size(), perplexity)});
  result.right = std::move(strict);
}

}  // namespace

TaskAnswers ask(const EvaluatedModel& model, TaskData& data, const TaskOptions& options,
                ResultsFile& results, const TaskProgress& progress) {
  if (data.spec->kind == TaskKind::passkey) {
    data.left_out = drop_too_long(model, data);
    if (data.left_out > 0)
      log::info("{}: {} rows are longer than the model's context of {} tokens and left out",
                data.spec->name, data.left_out, longest_context(model.spec.config));
  }
  TaskAnswers answers;
  ask_pairs(model, data, options, results, progress, answers);
  if (data.spec->kind == TaskKind::chain)
    ask_chains(model, data, options, results, progress, answers);
  return answers;
}

TaskResult judge(const TaskData& data, const TaskAnswers& answers) {
  TaskResult result;
  result.task = data.spec->name;
  result.rows = int64_t(data.rows.size());
  result.left_out = data.left_out;
  switch (data.spec->kind) {
    case TaskKind::choices:
    case TaskKind::contexts:
      judge_choices(data, answers, result);
      break;
    case TaskKind::cloze:
      judge_cloze(answers, result);
      break;
    case TaskKind::passkey:
      judge_passkey(data, answers, result);
      break;
    case TaskKind::chain:
      judge_chains(data, answers, result);
      break;
  }
  return result;
}

Flips flips(const TaskResult& reference, const TaskResult& other) {
  if (reference.right.size() != other.right.size())
    internal_error("flips: {} rows against {}", reference.right.size(), other.right.size());
  Flips result;
  std::vector<double> difference;
  for (size_t i = 0; i < other.right.size(); ++i) {
    difference.push_back(other.right[i] - reference.right[i]);
    result.to_wrong += difference.back() < 0;
    result.to_right += difference.back() > 0;
  }
  result.rows = int64_t(difference.size());
  result.difference = bootstrap_mean(difference);
  return result;
}

}  // namespace qat
