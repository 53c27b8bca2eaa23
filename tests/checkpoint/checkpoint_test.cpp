// Saving, loading and pruning when nothing goes wrong, and what a save refuses.
#include "engine/train/checkpoint.h"

#include <cmath>
#include <limits>

#include "engine/core/error.h"
#include "tests/faults/checkpoint_fixture.h"

namespace qat {
namespace {

using Names = std::vector<std::string>;

class CheckpointTest : public CheckpointFixture {};

template <class Action>
std::string refusal_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::refused);
    return error.what();
  }
  return "";
}

TEST_F(CheckpointTest, WhatIsSavedIsLoaded) {
  EXPECT_EQ(newest(), -1) << "no directory yet";
  CheckpointWriter writer(directory_, options());
  const SaveResult result = save(writer, 12);
  ASSERT_TRUE(result.committed()) << result.message;
  EXPECT_EQ(result.path, step_path(12));
  EXPECT_EQ(result.bytes, std::filesystem::file_size(rank_path(12)) +
                              std::filesystem::file_size(manifest_path(12)));
  const Checkpoint loaded = Checkpoint::load(step_path(12));
  EXPECT_TRUE(is_of_one_step(loaded));
  EXPECT_EQ(loaded.run_id(), "run1");
  EXPECT_EQ(loaded.program(), "test");
  EXPECT_EQ(names(), Names{"step-12"});
}

TEST_F(CheckpointTest, LargeTensorsGoThroughInChunks) {
  constexpr int64_t kLarge = 5'000'001;
  CheckpointWriter writer(directory_, options());
  ASSERT_TRUE(save(writer, 3, kLarge).committed());
  EXPECT_TRUE(is_of_one_step(Checkpoint::load(step_path(3)), kLarge));
}

TEST_F(CheckpointTest, EveryShapeAndDtypeComesBack) {
  const std::vector<std::byte> bytes(256, std::byte{1});
  const auto tensor = [&](const char* name, Shape shape, DType dtype) {
    return CheckpointTensor{name, ConstView(bytes.data(), shape, dtype)};
  };
  const std::vector<CheckpointTensor> tensors = {
      tensor("scalar", {}, DType::f32),         tensor("empty", {0, 4}, DType::bf16),
      tensor("matrix", {3, 5}, DType::i8),      tensor("cube", {2, 3, 4}, DType::i32),
      tensor("four", {1, 2, 3, 4}, DType::i64), tensor("half", {7}, DType::f16)};
  CheckpointWriter writer(directory_, options());
  ASSERT_TRUE(writer.save(0, nlohmann::json::object(), tensors).committed());
  const Checkpoint loaded = Checkpoint::load(step_path(0));
  ASSERT_EQ(loaded.tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(loaded.tensors()[i].name, tensors[i].name);
    EXPECT_EQ(loaded.tensors()[i].view.shape, tensors[i].view.shape);
    EXPECT_EQ(loaded.tensors()[i].view.dtype, tensors[i].view.dtype);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(loaded.tensors()[i].view.data) % 64, 0u);
  }
}

TEST_F(CheckpointTest, TheStateComesBackExactly) {
  const nlohmann::json state = {{"seed", std::numeric_limits<uint64_t>::max()},
                                {"loss", 0.1 + 0.2},
                                {"base", std::nextafter(1.0, 2.0)},
                                {"layers", {true, false}},
                                {"path", "größe 模型"}};
  CheckpointWriter writer(directory_, options());
  ASSERT_TRUE(writer.save(1, state, {}).committed());
  EXPECT_EQ(Checkpoint::load(step_path(1)).state(), state);
}

TEST_F(CheckpointTest, AStateThatWouldNotReadBackIsADefect) {
  CheckpointWriter writer(directory_, options());
  const nlohmann::json state = {{"window", {1.0, std::nan("")}}};
  EXPECT_THROW(writer.save(1, state, {}), Error);
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

TEST_F(CheckpointTest, TheNewestIsByStepAndNotByTime) {
  CheckpointWriter writer(directory_, options());
  save(writer, 9);
  save(writer, 10);
  std::filesystem::last_write_time(step_path(9), std::filesystem::file_time_type::clock::now());
  EXPECT_EQ(newest(), 10);
}

TEST_F(CheckpointTest, KeepsTheNewestOnes) {
  CheckpointOptions three = options();
  three.keep = 3;
  CheckpointWriter writer(directory_, three);
  for (int64_t step = 10; step <= 60; step += 10) ASSERT_TRUE(save(writer, step).committed());
  EXPECT_EQ(names(), (Names{"step-40", "step-50", "step-60"}));
  three.keep = 1;
  EXPECT_NE(refusal_of([&] { CheckpointWriter(directory_, three); }).find("checkpoint.keep"),
            std::string::npos);
}

TEST_F(CheckpointTest, PruningCountsWholeOnesOnly) {
  for (int64_t step : {10, 20, 30}) save(step);
  EXPECT_EQ(names(), (Names{"step-20", "step-30"}));
  std::filesystem::resize_file(rank_path(30), 100);
  save(40);
  EXPECT_EQ(names(), (Names{"step-20", "step-30", "step-40"})) << "20 is the second whole one";
  save(50);
  EXPECT_EQ(names(), (Names{"step-40", "step-50"}));
}

TEST_F(CheckpointTest, SavingAStepAgainReplacesIt) {
  save(10);
  CheckpointWriter writer(directory_, options("run2"));
  ASSERT_TRUE(save(writer, 10).committed());
  EXPECT_EQ(Checkpoint::load(step_path(10)).run_id(), "run2");
  EXPECT_EQ(names(), Names{"step-10"});
}

TEST_F(CheckpointTest, OneNonFiniteNumberIsNotCommitted) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()})
    for (size_t at : {size_t(0), size_t(2'500'000), size_t(2'999'999)}) {
      StepTensors tensors(5, 3'000'000);
      tensors.weights()[at] = bad;
      CheckpointWriter writer(directory_, options());
      auto list = tensors.list();
      const SaveResult result = writer.save(5, step_state(5), list);
      EXPECT_EQ(result.status, SaveResult::Status::not_finite);
      EXPECT_EQ(result.message, "tensor weights is not finite at element " + std::to_string(at));
      EXPECT_EQ(names(), Names{});
      if (at == 0) {
        list[0].finite = Finite::optional;
        EXPECT_TRUE(writer.save(5, step_state(5), list).committed());
        std::filesystem::remove_all(step_path(5));
      }
    }
}

TEST_F(CheckpointTest, ReadChecksNameShapeAndDtype) {
  save(1);
  const Checkpoint loaded = Checkpoint::load(step_path(1));
  std::vector<float> weights(3000);
  const auto view = [&](Shape shape, DType dtype) {
    View view;
    view.data = reinterpret_cast<std::byte*>(weights.data());
    view.shape = shape;
    view.dtype = dtype;
    return view;
  };
  loaded.read("weights", view({3000}, DType::f32));
  EXPECT_EQ(weights[1], 1.0f + 0x1p-20f);
  EXPECT_NE(refusal_of([&] { loaded.read("bias", view({3000}, DType::f32)); }).find("bias"),
            std::string::npos);
  const std::string shape = refusal_of([&] {
    loaded.read("weights", view({30, 100}, DType::f32));
  });
  EXPECT_NE(shape.find("expected f32 [30, 100], got f32 [3000]"), std::string::npos) << shape;
  EXPECT_NE(refusal_of([&] { loaded.read("weights", view({3000}, DType::i32)); }), "");
}

TEST_F(CheckpointTest, NewerOnesAreSetAside) {
  for (int64_t step : {10, 20}) save(step);
  set_aside_newer_checkpoints(directory_, 10, "run2");
  EXPECT_EQ(newest(), 10);
  EXPECT_EQ(names(), (Names{"step-10", "step-20.bad-run2"}));
}

TEST_F(CheckpointTest, ResumeSaysWhenNothingIsWhole) {
  EXPECT_FALSE(resume_checkpoint(directory_, NoneWhole::refuse).has_value());
  save(10);
  EXPECT_EQ(resume_checkpoint(directory_, NoneWhole::refuse)->step(), 10);
  std::filesystem::remove(manifest_path(10));
  const std::string message = refusal_of([&] { resume_checkpoint(directory_, NoneWhole::refuse); });
  EXPECT_NE(message.find("auto-or-scratch"), std::string::npos) << message;
  EXPECT_NE(message.find("manifest.json: No such file"), std::string::npos) << message;
  EXPECT_FALSE(resume_checkpoint(directory_, NoneWhole::start_over).has_value());
}

TEST_F(CheckpointTest, TheBytesAreForeseen) {
  const StepTensors tensors(1, 100'000);
  const uint64_t foreseen = checkpoint_bytes(tensors.list());
  CheckpointWriter writer(directory_, options());
  const SaveResult result = writer.save(1, step_state(1), tensors.list());
  EXPECT_LE(result.bytes, foreseen);
  EXPECT_GE(double(result.bytes), 0.95 * double(foreseen));
}

}  // namespace
}  // namespace qat
