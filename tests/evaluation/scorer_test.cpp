// Log-likelihoods against logits that transformers computed (tests/golden), in any company of other
// requests; and generation that starts from what a prompt shares with the one before.
#include "models/evaluation/scorer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/evaluation/results_file.h"
#include "models/generate.h"
#include "tests/models/golden.h"

namespace qat {
namespace {

struct Golden {
  explicit Golden(const std::string& family) {
    const std::string folder = golden::path(family);
    const auto source = ModelSource::open(folder);
    load_parameters(*source, store, "", DType::f32, Category::masters);
    fill_rope_table(source->config(), store, "");
    spec.config = source->config();
    spec.build.dtype = DType::f32;
    const auto expected = Safetensors::open_file(folder + "/expected.safetensors");
    ids = golden::ints(*expected, "ids");
    logits = golden::floats(*expected, "logits");
  }

  static constexpr int64_t kLength = 48;  ///< of the two sequences

  // The last `scored` of the first `length` tokens of a sequence.
  Continuation request(int64_t sequence, int64_t length, int64_t scored) const {
    const auto begin = ids.begin() + sequence * kLength;
    return {{begin, begin + length}, scored};
  }
  Likelihood expected(int64_t sequence, int64_t length, int64_t scored) const {
    Likelihood result{0.0, true};
    const int64_t vocab = spec.config.vocab;
    for (int64_t t = length - scored; t < length; ++t) {
      const float* row = logits.data() + (sequence * kLength + t - 1) * vocab;
      const int32_t target = ids[size_t(sequence * kLength + t)];
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(double(row[v]));
      result.log_likelihood += double(row[target]) - std::log(sum);
      result.greedy = result.greedy && std::max_element(row, row + vocab) - row == target;
    }
    return result;
  }

  Store store;
  ForwardSpec spec;
  std::vector<int32_t> ids;
  std::vector<float> logits;
  Stream stream;
};

std::vector<Likelihood> score_all(Golden& model, const std::vector<Continuation>& requests) {
  Scorer scorer(model.spec, model.store, cpu_kernels(), model.stream);
  std::vector<Likelihood> results(requests.size());
  for (const auto& batch : scorer.batches(requests)) {
    const auto found = scorer.score(requests, batch);
    for (size_t i = 0; i < batch.size(); ++i) results[batch[i]] = found[i];
  }
  return results;
}

class ScorerOfFamily : public testing::TestWithParam<const char*> {};

TEST_P(ScorerOfFamily, GivesTransformersLikelihoods) {
  Golden model(GetParam());
  std::vector<Continuation> requests;
  std::vector<Likelihood> expected;
  for (int64_t sequence = 0; sequence < 2; ++sequence)
    for (const int64_t length : {2, 5, 17, 33, 48})
      for (const int64_t scored : {1, 4, 20})
        if (scored < length) {
          requests.push_back(model.request(sequence, length, scored));
          expected.push_back(model.expected(sequence, length, scored));
        }
  const auto found = score_all(model, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_NEAR(found[i].log_likelihood, expected[i].log_likelihood,
                1e-4 * double(requests[i].scored))
        << i;
    EXPECT_EQ(found[i].greedy, expected[i].greedy) << i;
  }
}
INSTANTIATE_TEST_SUITE_P(Families, ScorerOfFamily,
                         testing::Values("llama", "llama_untied", "qwen2", "qwen3"));

TEST(Scorer, GreedyIsTheLikeliestToken) {
  Golden model("llama");
  Continuation request = model.request(0, 20, 1);
  const float* row = model.logits.data() + 18 * model.spec.config.vocab;
  request.ids[19] = int32_t(std::max_element(row, row + model.spec.config.vocab) - row);
  EXPECT_TRUE(score_all(model, {request})[0].greedy);
  request.ids[19] = (request.ids[19] + 1) % int32_t(model.spec.config.vocab);
  EXPECT_FALSE(score_all(model, {request})[0].greedy);
}

TEST(Scorer, LongRequestsLoseTheirStart) {
  Golden model("llama");
  model.spec.config.sliding_window = 16;
  const Continuation whole = model.request(0, 48, 3);
  const Continuation end{{whole.ids.end() - 17, whole.ids.end()}, 3};
  const auto found = score_all(model, {whole, end});
  EXPECT_EQ(found[0].log_likelihood, found[1].log_likelihood);
}

TEST(Scorer, BatchesHoldEachRequestOnce) {
  Golden model("llama");
  std::vector<Continuation> requests;
  for (int64_t i = 0; i < 300; ++i) requests.push_back(model.request(i % 2, 2 + i % 46, 1));
  const Scorer scorer(model.spec, model.store, cpu_kernels(), model.stream);
  std::vector<int> times(requests.size(), 0);
  size_t before = 1000;
  for (const auto& batch : scorer.batches(requests)) {
    for (const size_t i : batch) ++times[i];
    const size_t longest = requests[batch[0]].ids.size();
    EXPECT_LE(longest, before);
    before = longest;
  }
  EXPECT_EQ(std::count(times.begin(), times.end(), 1), 300);
}

TEST(Scorer, ScalesOfAWholeTensorSeeOneRequestAtATime) {
  Golden model("llama");
  QuantSpec tensor{.per = Per::tensor};
  for (const std::string& path : decoder_linears(model.spec.config))
    model.spec.plan.linears[path].activation = tensor;
  const std::vector<Continuation> requests = {model.request(0, 20, 5), model.request(1, 20, 5),
                                              model.request(0, 13, 2)};
  const auto together = score_all(model, requests);
  for (size_t i = 0; i < requests.size(); ++i)
    EXPECT_EQ(score_all(model, {requests[i]})[0].log_likelihood, together[i].log_likelihood);
}

TEST(Generation, SharedStartsChangeNothing) {
  Golden model("llama");
  std::vector<int32_t> a(model.ids.begin(), model.ids.begin() + 45), b = a, c = a;
  b[40] = (b[40] + 1) % 128;  // parts from a in the second piece
  c[3] = (c[3] + 1) % 128;    // in the first one
  const auto alone = [&](const std::vector<int32_t>& prompt) {
    Generator generator(model.spec, model.store, cpu_kernels(), model.stream, 80);
    generator.generate(prompt, {.max_tokens = 20});
    return std::vector<float>(generator.logits(), generator.logits() + 128);
  };
  std::vector<std::vector<float>> expected;
  const std::vector<std::vector<int32_t>> prompts = {a, b, a, {a.begin(), a.begin() + 32}, c, a};
  for (const auto& prompt : prompts) expected.push_back(alone(prompt));
  Generator generator(model.spec, model.store, cpu_kernels(), model.stream, 80);
  for (size_t i = 0; i < prompts.size(); ++i) {
    generator.generate(prompts[i], {.max_tokens = 20});
    EXPECT_TRUE(std::equal(expected[i].begin(), expected[i].end(), generator.logits())) << i;
  }
}

TEST(Generation, AnotherContextMayComeLater) {
  Golden model("llama");
  for (const int64_t context : {40, 80, 60}) {
    Generator generator(model.spec, model.store, cpu_kernels(), model.stream, context);
    EXPECT_EQ(generator.generate({1, 5, 9}, {.max_tokens = 4}).size(), 4u) << context;
  }
}

TEST(Generation, StopsWhenItIsToldTo) {
  Golden model("llama");
  model.spec.config.eos_ids.clear();
  Generator generator(model.spec, model.store, cpu_kernels(), model.stream, 80);
  int64_t count = 0;
  const auto tokens = generator.generate({1, 5, 9}, {.max_tokens = 20}, [&](int32_t) {
    return ++count == 4 ? Next::stop : Next::token;
  });
  EXPECT_EQ(tokens.size(), 4u);
}

TEST(ModelIdentity, FollowsWeightsAndSettings) {
  Golden model("llama");
  const std::string before = model_identity(model.store, "a");
  EXPECT_EQ(model_identity(model.store, "a"), before);
  EXPECT_NE(model_identity(model.store, "b"), before);
  model.store.make("moments.x", {4}, DType::f32, Category::moments);
  EXPECT_EQ(model_identity(model.store, "a"), before);
  model.store.get("model.norm.weight").as<float>()[3] += 1e-3f;
  EXPECT_NE(model_identity(model.store, "a"), before);
}

}  // namespace
}  // namespace qat
