// What greedy generation looks like: whether it repeats itself, runs in circles, and where it
// leaves the text of a reference model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/evaluation/results_file.h"
#include "models/evaluation/statistics.h"
#include "models/evaluation/tasks.h"

namespace qat {

/// Of one generated text.
struct Repetition {
  double repeated = 0;  ///< share of its 4-grams that it had before (Welleck et al., 2019)
  double distinct_1 = 1, distinct_2 = 1;  ///< different tokens, pairs, over all of them
  bool loop = false;  ///< its end is one piece, at least three times and 24 tokens in a row
};
Repetition repetition_of(const std::vector<int32_t>& ids);

/// Tokens two texts have in common from the start.
int64_t common_start(const std::vector<int32_t>& a, const std::vector<int32_t>& b);

struct GeneratedText {
  std::string prompt, text;
  std::vector<int32_t> ids;
};

struct Stability {
  int64_t prompts = 0;
  double repeated = 0, distinct_1 = 0, distinct_2 = 0, loops = 0;  ///< means over prompts
  Interval repeated_interval, loops_interval;
  struct Divergence {
    double median_token = 0;  ///< first that differs; the text's length where none does
    double same_texts = 0;    ///< share that agrees to the end
    double common = 0;        ///< mean share of the reference's text before the first difference
    Interval common_interval;
  };
  std::optional<Divergence> divergence;
};

/// Prompts every run is compared on: stories, facts, code, lists, letters.
const std::vector<std::string>& stability_prompts();

/// Greedy continuations of `tokens` tokens, each kept in the results file.
std::vector<GeneratedText> generate_texts(const EvaluatedModel& model,
                                          const std::vector<std::string>& prompts, int64_t tokens,
                                          ResultsFile& results, const TaskProgress& progress);

/// reference: the same prompts continued by another model; null: none.
Stability stability_of(const std::vector<GeneratedText>& texts,
                       const std::vector<GeneratedText>* reference);

}  // namespace qat
