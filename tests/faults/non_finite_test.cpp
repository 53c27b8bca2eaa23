// Steps that go wrong (faults D1 to D3), on a real model with a device that computes nonsense at
// chosen steps: kernels of the CPU's table with one wrapped around.
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <limits>
#include <map>
#include <sstream>

#include "engine/core/error.h"
#include "tests/models/golden.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kLayers = 2;  // of the golden model

/// What the wrapped kernels do in this step. A kernel is a plain function, so this is a global.
struct Device {
  enum class Breaks { nothing, loss, gradient, activation, scaled_loss } breaks = Breaks::nothing;
  float value = kNaN;
  int swiglus = 0;
} device;

void head_loss(const HeadLoss& args, Stream& stream) {
  cpu_kernels().head_loss.run(args, stream);
  if (device.breaks == Device::Breaks::loss) args.sums.as<float>()[0] = device.value;
  if (device.breaks == Device::Breaks::scaled_loss) args.sums.as<float>()[0] *= device.value;
}

void rms_norm_backward(const RmsNormBackward& args, Stream& stream) {
  cpu_kernels().rms_norm_backward.run(args, stream);
  if (device.breaks == Device::Breaks::gradient) args.dweight_C.as<float>()[3] = device.value;
}

void swiglu(const SwiGlu& args, Stream& stream) {
  cpu_kernels().swiglu.run(args, stream);
  const bool second_layer = device.swiglus++ % kLayers == 1;
  if (device.breaks == Device::Breaks::activation && second_layer)
    args.y_TF.as<float>()[5] = device.value;
}

KernelTable breaking_kernels() {
  KernelTable table = cpu_kernels();
  table.head_loss.run = head_loss;
  table.rms_norm_backward.run = rms_norm_backward;
  table.swiglu.run = swiglu;
  return table;
}

class NonFinite : public testing::Test {
 protected:
  using Snapshot = std::map<std::string, std::string>;

  NonFinite() : logger_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_)));
    device = {};
    settings_.batch = 4;
    settings_.micro_batch = 2;
    settings_.sequence = 16;
    settings_.max_bad_steps = 3;
    settings_.cross_entropy = 1.0f;
    batches_ = model_.batches(64, 4, 16);
  }
  ~NonFinite() override { spdlog::set_default_logger(logger_); }

  /// `breaks_at`: what the device does while the step of that number (from 1) runs.
  Trainer trainer(std::map<int64_t, Device> breaks_at) {
    TrainingSpec spec;
    spec.config = model_.config;
    spec.build.batch = 2;
    spec.build.sequence = 16;
    spec.build.dtype = DType::f32;
    spec.recompute = Recompute::off;
    for (const SourceTensor& t : expected_tensors(model_.config)) spec.trained.push_back(t.name);
    return Trainer(
        settings_, model_.store, kernels_, model_.stream, spec.trained,
        [this, breaks_at](int64_t) {
          const auto at = breaks_at.find(int64_t(taken_) + 1);
          device = at == breaks_at.end() ? Device{} : at->second;
          return batches_[taken_++];
        },
        [spec](const EnabledLayers& layers) { return build_training_graph(spec, layers); },
        [](int64_t) { return EnabledLayers{}; }, [](int64_t) { return 1e-3; });
  }

  /// Masters and moments, bit for bit.
  Snapshot state() const {
    Snapshot bytes;
    for (const Store::Entry& entry : model_.store.entries())
      if (entry.category == Category::masters || entry.category == Category::moments)
        bytes[entry.name] = {reinterpret_cast<const char*>(entry.view.data), entry.view.bytes()};
    return bytes;
  }

  test::TinyModel model_{golden::path("llama")};
  const KernelTable kernels_ = breaking_kernels();
  TrainerSettings settings_;
  std::vector<Batch> batches_;
  size_t taken_ = 0;
  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> logger_;
};
class fault_D1 : public NonFinite {};
class fault_D2 : public NonFinite {};
class fault_D3 : public NonFinite {};

struct Case {
  Device device;
  const char *what, *where;
};

TEST_F(fault_D1, TheStepIsSkippedAndNothingButTheDataMoves) {
  using Breaks = Device::Breaks;
  const Case cases[] = {
      {{Breaks::loss, kNaN}, "non-finite loss", "first made by head_loss"},
      {{Breaks::loss, kInf}, "non-finite loss", "first made by head_loss"},
      {{Breaks::gradient, kNaN},
       "non-finite gradient of model.",
       "first made by rms_norm_backward"},
      {{Breaks::gradient, -kInf}, "non-finite gradient of", "first made by rms_norm_backward"},
      {{Breaks::activation, kNaN},
       "non-finite loss",
       "first made by swiglu at model.layers.1.mlp (element 5 of"}};
  std::map<int64_t, Device> breaks_at;
  for (size_t i = 0; i < std::size(cases); ++i) breaks_at[int64_t(3 + 2 * i)] = cases[i].device;
  Trainer trainer = this->trainer(breaks_at);
  trainer.step();
  trainer.step();
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("{} {}", c.where, c.device.value));
    const Snapshot before = state();
    log_.str("");
    const StepResult bad = trainer.step();
    EXPECT_TRUE(bad.skipped);
    EXPECT_EQ(state(), before);
    EXPECT_EQ(taken_, size_t(bad.step)) << "the data moves on";
    EXPECT_EQ(trainer.state().bad_steps, 1);
    const std::string log = log_.str();
    EXPECT_NE(log.find(fmt::format("step {}: ", bad.step)), std::string::npos) << log;
    EXPECT_NE(log.find(c.what), std::string::npos) << log;
    EXPECT_NE(log.find(c.where), std::string::npos) << log;
    const StepResult good = trainer.step();
    EXPECT_FALSE(good.skipped);
    EXPECT_NE(state(), before);
    EXPECT_EQ(trainer.state().bad_steps, 0);
  }
  EXPECT_EQ(trainer.state().skipped_steps, int64_t(std::size(cases)));
  EXPECT_EQ(trainer.finished_steps(), 12);
}

TEST_F(fault_D1, TheFirstNodeIsNamedAndNotWhatFollowsFromIt) {
  model_.store.get("model.layers.1.post_attention_layernorm.weight").as<float>()[0] = kInf;
  Trainer trainer = this->trainer({});
  EXPECT_TRUE(trainer.step().skipped);
  EXPECT_NE(log_.str().find("first made by rms_norm at model.layers.1"), std::string::npos)
      << log_.str();
}

TEST_F(fault_D2, TooManyInARowEndTheRun) {
  Device nan{Device::Breaks::loss, kNaN};
  Trainer trainer = this->trainer({{2, nan}, {3, nan}, {5, nan}, {6, nan}, {7, nan}});
  for (int i = 0; i < 6; ++i) trainer.step();
  EXPECT_EQ(trainer.state().bad_steps, 2);
  const Snapshot before = state();
  try {
    trainer.step();
    FAIL() << "the third in a row";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::diverged);
    EXPECT_NE(std::string(error.what()).find("3 non-finite steps in a row"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(state(), before);
}

TEST_F(fault_D2, AResumedRunGoesOnCounting) {
  Device nan{Device::Breaks::loss, kNaN};
  Trainer first = this->trainer({{1, nan}, {2, nan}, {3, nan}});
  first.step();
  first.step();
  Trainer second = this->trainer({{3, nan}});
  second.resume_at(first.state());
  EXPECT_THROW(second.step(), Error);
}

TEST_F(fault_D3, ASpikeIsLoggedWithItsZScoreAndTrainedOn) {
  settings_.spike_z = 8;
  Trainer trainer = this->trainer({{12, {Device::Breaks::scaled_loss, 1e4f}}});
  for (int i = 0; i < 11; ++i) EXPECT_FALSE(trainer.step().spike);
  const Snapshot before = state();
  const StepResult spiked = trainer.step();
  ASSERT_TRUE(spiked.spike);
  EXPECT_GT(*spiked.spike, 100);
  EXPECT_FALSE(spiked.skipped);
  EXPECT_NE(state(), before);
  EXPECT_NE(log_.str().find("step 12: the loss spikes"), std::string::npos) << log_.str();
  EXPECT_NE(log_.str().find("standard deviations"), std::string::npos);
  EXPECT_FALSE(trainer.step().spike);
}

TEST_F(fault_D3, ASpikeIsSkippedWhereAskedAndTheSameAfterAResume) {
  settings_.spike_z = 8;
  settings_.on_spike = OnSpike::skip;
  const std::map<int64_t, Device> breaks_at = {{12, {Device::Breaks::scaled_loss, 1e4f}}};
  Trainer first = this->trainer(breaks_at);
  for (int i = 0; i < 11; ++i) first.step();
  Trainer second = this->trainer(breaks_at);
  second.resume_at(first.state());
  const Snapshot before = state();
  const StepResult spiked = second.step();
  EXPECT_TRUE(spiked.spike && spiked.skipped);
  EXPECT_EQ(state(), before);
  EXPECT_EQ(second.state().skipped_steps, 1);
  EXPECT_EQ(second.state().bad_steps, 0);
}

TEST_F(fault_D3, ALossThatStaysHighIsSoonNoSpike) {
  settings_.spike_z = 8;
  settings_.on_spike = OnSpike::skip;
  std::map<int64_t, Device> breaks_at;
  for (int64_t step = 12; step < 40; ++step) breaks_at[step] = {Device::Breaks::scaled_loss, 3.0f};
  Trainer trainer = this->trainer(breaks_at);
  for (int i = 0; i < 39; ++i) trainer.step();
  EXPECT_GE(trainer.state().skipped_steps, 1);
  EXPECT_LE(trainer.state().skipped_steps, 3);
}

}  // namespace
}  // namespace qat
