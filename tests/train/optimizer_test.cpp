// What the optimizer does to trained scales, which differ from other parameters.
#include "engine/train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qat {
namespace {

constexpr int64_t kScales = 8192;

struct Updated {
  std::vector<float> scales, weights;
  Store store;
};

// One step of a matrix and its scales, both with gradients of 1, -1, 1, ...
void update(Updated& u, int state_bits, int64_t step, int64_t joined, float scale_size) {
  const std::vector<std::string> names = {"a.weight", "a.weight_scale"};
  for (const std::string& name : names)
    u.store.make(name, {kScales / 8, 8}, DType::f32, Category::masters);
  const View gradient = u.store.make("g", {kScales / 8, 8}, DType::f32, Category::state);
  for (int64_t i = 0; i < kScales; ++i) {
    u.store.get(names[0]).as<float>()[i] = 1.0f;
    u.store.get(names[1]).as<float>()[i] = scale_size;
    gradient.as<float>()[i] = i % 2 ? -1.0f : 1.0f;
  }
  Optimizer optimizer(u.store, cpu_kernels(),
                      {.weight_decay = 0.5f, .state_bits = state_bits, .scale_rate = 4.0}, names);
  std::vector<TrainedParameter> parameters;
  for (const std::string& name : names)
    parameters.push_back({name, u.store.get(name), gradient, joined});
  Stream stream(1);
  optimizer.update(parameters, step, 1e-3, 1.0, stream);
  const auto values = [&](const std::string& name) {
    const float* v = u.store.get(name).as<float>();
    return std::vector<float>(v, v + kScales);
  };
  u.weights = values(names[0]);
  u.scales = values(names[1]);
}

// Adam's first step is one learning rate whatever the gradient.
TEST(OptimizerTest, ScalesMoveByAShareOfTheirSizeWithoutDecay) {
  for (const float size : {0.001f, 0.1f}) {
    Updated u;
    update(u, 32, 1, 0, size);
    for (int64_t i = 0; i < kScales; ++i) {
      const float sign = i % 2 ? -1.0f : 1.0f;
      ASSERT_NEAR(u.scales[size_t(i)], size * (1.0f - sign * 4e-3f), 1e-5f * size);
      ASSERT_NEAR(u.weights[size_t(i)], (1.0f - sign * 1e-3f) * (1.0f - 1e-3f * 0.5f), 1e-6f);
    }
  }
}

TEST(OptimizerTest, ScalesKeepF32Moments) {
  Updated u;
  update(u, 8, 1, 0, 0.1f);
  EXPECT_EQ(u.store.get("moment1.a.weight").dtype, DType::u8);
  EXPECT_EQ(u.store.get("moment1.a.weight_scale").dtype, DType::f32);
  EXPECT_EQ(u.store.get("moment2.a.weight_scale").dtype, DType::f32);
}

// Moments that start at step 100 are corrected as those of a first step.
TEST(OptimizerTest, AParameterThatJoinsLateStartsAsOthersDid) {
  Updated first, late;
  update(first, 32, 1, 0, 0.1f);
  update(late, 32, 101, 100, 0.1f);
  EXPECT_EQ(late.scales, first.scales);
  Updated old;
  update(old, 32, 101, 0, 0.1f);
  EXPECT_NE(old.scales, first.scales);
}

}  // namespace
}  // namespace qat
