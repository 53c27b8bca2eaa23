// Preparation of a trained model on real text: stories260k, when QAT_TEST_DATA names the folder
// with it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "engine/core/log.h"
#include "engine/data/dataset.h"
#include "engine/data/eval_windows.h"
#include "models/evaluate.h"
#include "models/prepare.h"
#include "models/tokenizer/tokenizer.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

class Stories : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("QAT_TEST_DATA");
    if (!folder) GTEST_SKIP() << "QAT_TEST_DATA is not set";
    root_ = folder;
    tokenizer_ = Tokenizer::open(model_path());
    tokenize_.read.format = DataFormat::text;
    tokenize_.encoder.encode = [this](std::string_view text) { return tokenizer_->encode(text); };
    tokenize_.encoder.fingerprint = tokenizer_->fingerprint();
    tokenize_.encoder.vocab_size = tokenizer_->vocab_size();
    tokenize_.encoder.bos = tokenizer_->bos_id();
  }

  std::string model_path() const { return root_ + "/stories260k"; }

  std::vector<Batch> calibration(int64_t samples) {
    Dataset data = Dataset::open({root_ + "/text/tinystories_train.jsonl"}, tokenize_,
                                 {.sequence = 256, .seed = 7});
    return calibration_batches([&](int64_t rows) { return data.next(rows); }, samples, 8);
  }

  double perplexity(TinyModel& model, const QuantPlan& plan) {
    EvalOptions options;
    options.window = 256;
    options.max_windows = 24;
    if (!windows_)
      windows_ = std::make_unique<EvalWindows>(
          EvalWindows::open(root_ + "/text/tinystories_valid.jsonl", tokenize_, options));
    ForwardSpec spec;
    spec.config = model.config;
    spec.plan = plan;
    spec.build.dtype = DType::f32;
    return evaluate_perplexity(spec, model.store, cpu_kernels(), model.stream, *windows_, 4)
        .perplexity;
  }

  std::string root_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenizeOptions tokenize_;
  std::unique_ptr<EvalWindows> windows_;
};

TEST_F(Stories, SmoothingDoesNotHurtW8A8) {
  const auto batches = calibration(32);
  for (const int bits : {8, 6, 4}) {
    TinyModel plain(model_path());
    const QuantPlan plan =
        test::dynamic_plan(plain.config, test::weight_spec(8), test::token_spec(bits));
    const double exact = perplexity(plain, {}), before = perplexity(plain, plan);
    TinyModel smoothed(model_path());
    const SmoothOptions options{.mode = SmoothMode::search};
    const PreparedModel prepared = prepare_for_quantization(smoothed.measured(), plan, batches,
                                                            {.smooth = options, .range = {}});
    EXPECT_EQ(prepared.smoothed.size(), size_t(4 * plain.config.layers));
    EXPECT_NEAR(perplexity(smoothed, {}), exact, 1e-4 * exact);
    const double after = perplexity(smoothed, plan);
    log::info("activations of {} bits: perplexity {:.4f}, quantized {:.4f}, smoothed {:.4f}", bits,
              exact, before, after);
    EXPECT_LT(after, before + 1e-3 * exact);
  }
}

TEST_F(Stories, StaticRangesComeNearTheDynamicOnes) {
  const auto batches = calibration(64);
  for (const int bits : {8, 6}) {
    TinyModel model(model_path());
    const QuantPlan plan =
        test::static_plan(model.config, test::weight_spec(8), test::tensor_spec(bits));
    const double exact = perplexity(model, {});
    std::map<RangeRule, double> result;
    for (const RangeRule rule : {RangeRule::min_max, RangeRule::percentile, RangeRule::mse}) {
      prepare_for_quantization(model.measured(), plan, batches,
                               {.smooth = {}, .range = {rule, 99.99}});
      result[rule] = perplexity(model, plan);
    }
    log::info("static {} bits: perplexity {:.4f}, min_max {:.4f}, percentile {:.4f}, mse {:.4f}",
              bits, exact, result[RangeRule::min_max], result[RangeRule::percentile],
              result[RangeRule::mse]);
    EXPECT_LT(result[RangeRule::mse], result[RangeRule::min_max] * 1.001);
    for (const auto& [rule, value] : result) EXPECT_LT(value, (bits == 8 ? 1.05 : 2.0) * exact);
  }
}

TEST_F(Stories, LeastDamagingLayersFirstIsBetterThanLast) {
  const auto batches = calibration(16);
  TinyModel model(model_path());
  const QuantPlan plan =
      test::dynamic_plan(model.config, test::weight_spec(3), test::token_spec(8));
  const PreparedModel prepared =
      prepare_for_quantization(model.measured(), plan, batches,
                               {.smooth = {}, .range = {}, .sensitivity = MeasureSensitivity::yes});
  ASSERT_EQ(prepared.order.size(), size_t(model.config.layers));
  std::map<int64_t, double> kl;
  for (const LayerSensitivity& layer : prepared.sensitivity) kl[layer.layer] = layer.kl;
  for (size_t i = 1; i < prepared.order.size(); ++i)
    EXPECT_LE(kl.at(prepared.order[i - 1]), kl.at(prepared.order[i]));
  // On text that was not measured, the two layers of least damage cost less than the two of most.
  const auto only = [&](int64_t a, int64_t b) {
    QuantPlan some;
    for (const auto& [path, quant] : plan.linears)
      for (const int64_t layer : {a, b})
        if (path.starts_with(fmt::format("model.layers.{}.", layer))) some.linears[path] = quant;
    return perplexity(model, some);
  };
  const size_t last = prepared.order.size() - 1;
  EXPECT_LT(only(prepared.order[0], prepared.order[1]),
            only(prepared.order[last - 1], prepared.order[last]));
}

}  // namespace
}  // namespace qat
