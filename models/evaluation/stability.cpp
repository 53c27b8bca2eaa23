#include "models/evaluation/stability.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "engine/core/error.h"
#include "models/generate.h"

namespace qat {
namespace {

constexpr int64_t kLoopTokens = 24, kLoopTimes = 3;

// Share of n-grams that are the first of their kind; 1 for a text shorter than n.
double distinct(const std::vector<int32_t>& ids, size_t n) {
  if (ids.size() < n) return 1.0;
  std::set<std::vector<int32_t>> seen;
  const size_t count = ids.size() - n + 1;
  for (size_t i = 0; i < count; ++i)
    seen.emplace(ids.begin() + int64_t(i), ids.begin() + int64_t(i + n));
  return double(seen.size()) / double(count);
}

bool ends_in_loop(const std::vector<int32_t>& ids) {
  const int64_t size = int64_t(ids.size());
  for (int64_t period = 1; period * kLoopTimes <= size; ++period) {
    const int64_t tail = std::max(period * kLoopTimes, kLoopTokens);
    if (tail > size) continue;
    if (std::equal(ids.end() - (tail - period), ids.end(), ids.end() - tail)) return true;
  }
  return false;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

Repetition repetition_of(const std::vector<int32_t>& ids) {
  return {1.0 - distinct(ids, 4), distinct(ids, 1), distinct(ids, 2), ends_in_loop(ids)};
}

int64_t common_start(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

const std::vector<std::string>& stability_prompts() {
  static const std::vector<std::string> kPrompts = {
      "Once upon a time, in a village by the sea, there lived a boy who",
      "The old clock in the hall struck midnight, and",
      "Dear Sir or Madam,\n\nI am writing to ask about",
      "The capital of France is",
      "Water boils at 100 degrees Celsius because",
      "In 1969, two astronauts",
      "The three most important things to know about bread are:\n1.",
      "def is_prime(n):\n    \"\"\"Whether n is a prime number.\"\"\"\n",
      "#include <stdio.h>\n\nint main(void) {\n",
      "SELECT name, age FROM people WHERE",
      "Question: A train travels 60 miles in 1.5 hours. How fast is it?\nAnswer:",
      "The difference between a frog and a toad is that",
      "My grandmother always used to say that",
      "Breaking news: scientists have discovered",
      "To change a flat tire, first",
      "Photosynthesis is the process by which",
      "The committee met on Monday to discuss",
      "Ingredients:\n- 2 cups of flour\n- 1 cup of sugar\n",
      "She opened the letter slowly. It said:",
      "If I could live anywhere in the world, I would",
  };
  return kPrompts;
}

std::vector<GeneratedText> generate_texts(const EvaluatedModel& model,
                                          const std::vector<std::string>& prompts, int64_t tokens,
                                          ResultsFile& results, const TaskProgress& progress) {
  const std::string key = fmt::format("{}-generation-{}", model.identity, tokens);
  std::map<std::string, std::vector<int32_t>> known;  // by prompt
  results.take_records(key, [&](const nlohmann::json& record) {
    known.emplace(record.at("prompt"), record.at("ids"));
    return true;
  });
  std::vector<GeneratedText> texts;
  std::vector<std::vector<int32_t>> ids;
  size_t longest = 0;
  for (const std::string& prompt : prompts) {
    ids.push_back(model.tokenizer.encode_with_special(prompt));
    longest = std::max(longest, ids.back().size());
  }
  const int64_t context = std::min(longest_context(model.spec.config), int64_t(longest) + tokens);
  std::unique_ptr<Generator> generator;
  for (size_t i = 0; i < prompts.size(); ++i) {
    GeneratedText text{prompts[i], "", {}};
    const auto found = known.find(prompts[i]);
    if (found != known.end()) {
      text.ids = found->second;
    } else {
      if (!generator)
        generator = std::make_unique<Generator>(model.spec, model.store, model.kernels,
                                                model.stream, context);
      text.ids = generator->generate(ids[i], {.max_tokens = tokens});
      results.add(key, {{"task", "generation"}, {"prompt", prompts[i]}, {"ids", text.ids}});
    }
    text.text = model.tokenizer.decode(text.ids, true);
    texts.push_back(std::move(text));
    if (progress) progress(int64_t(i) + 1, int64_t(prompts.size()));
  }
  return texts;
}

Stability stability_of(const std::vector<GeneratedText>& texts,
                       const std::vector<GeneratedText>* reference) {
  if (reference && reference->size() != texts.size())
    internal_error("stability: {} texts against {}", texts.size(), reference->size());
  std::vector<double> repeated, distinct_1, distinct_2, loops;
  for (const GeneratedText& text : texts) {
    const Repetition r = repetition_of(text.ids);
    repeated.push_back(r.repeated);
    distinct_1.push_back(r.distinct_1);
    distinct_2.push_back(r.distinct_2);
    loops.push_back(r.loop ? 1.0 : 0.0);
  }
  Stability result;
  result.prompts = int64_t(texts.size());
  result.repeated = mean(repeated);
  result.distinct_1 = mean(distinct_1);
  result.distinct_2 = mean(distinct_2);
  result.loops = mean(loops);
  result.repeated_interval = bootstrap_mean(repeated);
  result.loops_interval = bootstrap_mean(loops);
  if (!reference || texts.empty()) return result;
  std::vector<double> first, common;
  int64_t same = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::vector<int32_t>& expected = (*reference)[i].ids;
    const int64_t shared = common_start(expected, texts[i].ids);
    const bool equal = expected == texts[i].ids;
    same += equal;
    first.push_back(double(shared));
    common.push_back(equal ? 1.0 : double(shared) / double(std::max<size_t>(expected.size(), 1)));
  }
  result.divergence = Stability::Divergence{median(first), double(same) / double(texts.size()),
                                            mean(common), bootstrap_mean(common)};
  return result;
}

}  // namespace qat
