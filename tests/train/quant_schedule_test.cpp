// Which layers are quantized at a step.
#include "engine/quant/quant_schedule.h"

#include <gtest/gtest.h>

#include "engine/core/error.h"

namespace qat {
namespace {

using Layers = std::vector<int64_t>;

TEST(QuantSchedule, FrontToBackThreeEveryTen) {
  const QuantSchedule schedule(
      {.layers = 8, .warmup_bf16 = 50, .layers_per_stage = 3, .every = 10});
  EXPECT_EQ(schedule.enabled_layers(0), Layers{});
  EXPECT_EQ(schedule.enabled_layers(49), Layers{});
  EXPECT_EQ(schedule.enabled_layers(50), (Layers{0, 1, 2}));
  EXPECT_EQ(schedule.enabled_layers(59), (Layers{0, 1, 2}));
  EXPECT_EQ(schedule.enabled_layers(60), (Layers{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(schedule.enabled_layers(69).size(), 6u);
  EXPECT_EQ(schedule.enabled_layers(70).size(), 8u);
  EXPECT_EQ(schedule.enabled_count(int64_t{1} << 62), 8);
  EXPECT_EQ(schedule.all_enabled_at(), 70);
  EXPECT_EQ(schedule.change_steps(), (Layers{50, 60, 70}));
}

TEST(QuantSchedule, OtherOrders) {
  const QuantSchedule back(
      {.layers = 4, .order = EnableOrder::back_to_front, .layers_per_stage = 1});
  EXPECT_EQ(back.enabled_layers(0), Layers{3});
  EXPECT_EQ(back.enabled_layers(1), (Layers{2, 3}));
  const QuantSchedule listed(
      {.layers = 4, .order = EnableOrder::listed, .list = {2, 0, 3, 1}, .layers_per_stage = 1});
  EXPECT_EQ(listed.enabled_layers(1), (Layers{0, 2}));
  EXPECT_EQ(listed.enabled_layers(2), (Layers{0, 2, 3}));
}

TEST(QuantSchedule, SomeLayersOnly) {
  QuantScheduleOptions options{.layers = 8, .list = {6, 2, 4}, .layers_per_stage = 2, .every = 5};
  EXPECT_EQ(QuantSchedule(options).enabled_layers(0), (Layers{2, 4}));
  EXPECT_EQ(QuantSchedule(options).enabled_layers(5), (Layers{2, 4, 6}));
  EXPECT_EQ(QuantSchedule(options).all_enabled_at(), 5);
  EXPECT_EQ(QuantSchedule(options).timeline(9),
            "3 layers front to back, 2 every 5 steps, 0..4 | all 3 layers quantized 5..8");
  options.order = EnableOrder::back_to_front;
  EXPECT_EQ(QuantSchedule(options).enabled_layers(0), (Layers{4, 6}));
  options.order = EnableOrder::listed;
  EXPECT_EQ(QuantSchedule(options).enabled_layers(0), (Layers{2, 6}));
  options.layers_per_stage = 0;
  EXPECT_EQ(QuantSchedule(options).enabled_count(0), 3);
}

TEST(QuantSchedule, AllAtOnce) {
  const QuantSchedule schedule({.layers = 30, .warmup_bf16 = 5});
  EXPECT_EQ(schedule.enabled_count(4), 0);
  EXPECT_EQ(schedule.enabled_count(5), 30);
  EXPECT_EQ(schedule.change_steps(), Layers{5});
  EXPECT_EQ(schedule.all_enabled_at(), 5);
}

TEST(QuantSchedule, ChangeStepsAreWhereTheSetChanges) {
  for (const int64_t warmup : {0, 1, 6}) {
    for (const int64_t per_stage : {1, 2, 5, 100}) {
      for (const int64_t every : {1, 3}) {
        const QuantSchedule schedule(
            {.layers = 7, .warmup_bf16 = warmup, .layers_per_stage = per_stage, .every = every});
        Layers changes;
        for (int64_t step = 0; step < 60; ++step) {
          const Layers before = step == 0 ? Layers{} : schedule.enabled_layers(step - 1);
          if (schedule.enabled_layers(step) != before) changes.push_back(step);
        }
        EXPECT_EQ(schedule.change_steps(), changes);
        EXPECT_EQ(schedule.all_enabled_at(), changes.back());
        EXPECT_EQ(schedule.enabled_count(changes.back()), 7);
      }
    }
  }
}

TEST(QuantSchedule, Timeline) {
  const QuantSchedule schedule(
      {.layers = 30, .warmup_bf16 = 50, .layers_per_stage = 3, .every = 10});
  EXPECT_EQ(schedule.timeline(300),
            "bf16 0..49 | 30 layers front to back, 3 every 10 steps, 50..139 | all 30 layers "
            "quantized 140..299");
  EXPECT_EQ(schedule.timeline(141),
            "bf16 0..49 | 30 layers front to back, 3 every 10 steps, 50..139 | all 30 layers "
            "quantized 140");
  EXPECT_EQ(schedule.timeline(100),
            "bf16 0..49 | 30 layers front to back, 3 every 10 steps, 50..99 | no step with all "
            "layers quantized (15 of 30 at the end)");
  EXPECT_EQ(schedule.timeline(20),
            "bf16 0..19 | no step with all layers quantized (0 of 30 at the end)");
  EXPECT_EQ(QuantSchedule({.layers = 5}).timeline(10), "all 5 layers quantized 0..9");
}

TEST(QuantSchedule, RefusesWhatCannotHold) {
  const auto refused = [](const QuantScheduleOptions& options) {
    try {
      const QuantSchedule schedule(options);
    } catch (const Error& error) {
      return error.code() == Exit::refused;
    }
    return false;
  };
  EXPECT_TRUE(refused({.layers = 0}));
  EXPECT_TRUE(refused({.layers = 3, .warmup_bf16 = -1}));
  EXPECT_TRUE(refused({.layers = 3, .layers_per_stage = -1}));
  EXPECT_TRUE(refused({.layers = 3, .every = 0}));
  for (const Layers& list : {Layers{}, Layers{1, 1}, Layers{0, 1, 1}, Layers{0, 1, 3},
                             Layers{0, 1, 2, 2}, Layers{-1, 0, 1}}) {
    EXPECT_TRUE(refused({.layers = 3, .order = EnableOrder::listed, .list = list}));
  }
  EXPECT_FALSE(refused({.layers = 3, .order = EnableOrder::listed, .list = {2, 0, 1}}));
}

}  // namespace
}  // namespace qat
