// Training steps on several ranks: every ZeRO stage gives the bits of plain data parallelism, and
// that what one process computes, up to the order of its sums.
#include <gtest/gtest.h>

#include <map>

#include "engine/core/error.h"
#include "engine/ptq/trained_scales.h"
#include "engine/train/sharded_store.h"
#include "engine/train/trainer.h"
#include "models/dealing.h"
#include "models/memory_plan.h"
#include "models/scaling.h"
#include "tests/models/golden.h"
#include "tests/ranks/thread_ranks.h"

namespace qat {
namespace {

struct Model {
  const char* name;
  bool quantized = false;
  QuantSpec weights = {};
  bool trained_scales = false;
  DType dtype = DType::f32, masters = DType::f32;
  int state_bits = 32;
  const char* source = "llama";
  std::optional<uint64_t> rounding_seed = {};
};

struct Way {
  int ranks = 1;
  ZeroStage stage = ZeroStage::none;
  int64_t micro_batch = 1;
  int64_t poisoned_step = -1;  ///< in which the last rank computes NaN
};

struct Outcome {
  std::vector<double> losses, norms;
  std::map<std::string, std::vector<std::byte>> parameters;  ///< all rows
  std::map<Category, size_t> bytes, planned;                 ///< of rank 0
  int64_t gathered = 0;                                      ///< bytes, over all steps and ranks
};

constexpr int64_t kSequences = 4, kLength = 32, kSteps = 4;

Batch rows_of_step(const std::vector<int32_t>& tokens, int64_t step, int64_t first, int64_t rows) {
  Batch batch;
  batch.rows = rows;
  batch.sequence = kLength;
  batch.valid_targets = kSequences * kLength;
  const int64_t stored = int64_t(tokens.size()) / (kLength + 1);
  for (int64_t r = first; r < first + rows; ++r)
    for (int64_t t = 0; t < kLength; ++t) {
      const int32_t* ids = tokens.data() + (step * kSequences + r) % stored * (kLength + 1) + t;
      batch.ids.push_back(ids[0]);
      batch.targets.push_back(ids[1]);
      batch.positions.push_back(int32_t(t));
      batch.first.push_back(0);
    }
  return batch;
}

TrainingSpec spec_of(const ModelSource& source, const Model& model, const Way& way) {
  TrainingSpec spec;
  spec.config = source.config();
  spec.build.batch = way.micro_batch;
  spec.build.sequence = kLength;
  spec.build.dtype = model.dtype;
  spec.build.weight_dtype = model.masters;
  if (model.quantized)
    for (const std::string& path : decoder_linears(spec.config))
      spec.plan.linears[path] = {.weight = model.weights,
                                 .activation = QuantSpec{},
                                 .trained_scale = model.trained_scales};
  spec.plan.rounding_seed = model.rounding_seed;
  for (const SourceTensor& t : source.tensors()) spec.trained.push_back(t.name);
  for (const SourceTensor& t : scale_tensors(spec.plan, spec.config))
    spec.trained.push_back(t.name);
  spec.groups = group_scales_of(cpu_kernels());
  return spec;
}

void train_on(Communicator& ranks, const Model& model, const Way& way,
              const std::vector<int32_t>& tokens, Outcome& outcome) {
  const auto source = ModelSource::open(golden::path(model.source));
  Store store;
  Stream stream(1);
  load_parameters(*source, store, "", model.masters, Category::masters);
  fill_rope_table(source->config(), store, "");
  TrainingSpec spec = spec_of(*source, model, way);
  start_trained_scales(
      spec.plan, ScaleStart::rule, [](const std::string&) { return true; }, store, cpu_kernels(),
      stream);
  std::vector<SourceTensor> tensors = source->tensors();
  for (const SourceTensor& t : scale_tensors(spec.plan, spec.config)) tensors.push_back(t);
  spec.sharding = {&ranks, way.stage, deal_parameters(spec, tensors, way.stage, ranks.size())};
  ASSERT_FALSE(spec.sharding.partitions.empty());
  keep_own_rows(spec.sharding, store);

  TrainerSettings settings;
  settings.batch = kSequences;
  settings.micro_batch = way.micro_batch;
  settings.sequence = kLength;
  settings.optimizer.state_bits = model.state_bits;
  settings.optimizer.weight_decay = 0.1f;
  settings.optimizer.scale_rate = 10.0;
  settings.sharding = spec.sharding;
  int64_t step = 0;
  Trainer trainer(
      settings, store, cpu_kernels(), stream, spec.trained,
      [&](int64_t rows) {
        const int64_t own = rows / ranks.size();
        return rows_of_step(tokens, step, ranks.rank() * own, own);
      },
      [&](const EnabledLayers& layers) { return build_training_graph(spec, layers); },
      // Layers join as training goes on.
      [&](int64_t done) { return done < 1 ? EnabledLayers{} : all_layers(spec.config); },
      [](int64_t) { return 1e-3; });
  std::vector<double> losses, norms;
  float* rope = store.get(kRopeTable).as<float>();
  const float sound = rope[0];
  for (; step < kSteps; ++step) {
    if (ranks.rank() == ranks.size() - 1)
      rope[0] = step == way.poisoned_step ? std::nanf("") : sound;
    const StepResult result = trainer.step();
    EXPECT_EQ(result.skipped, step == way.poisoned_step) << "rank " << ranks.rank();
    losses.push_back(result.loss);
    norms.push_back(result.grad_norm);
  }
  if (ranks.rank() == 0) {
    outcome.bytes = store.bytes_by_category();
    outcome.planned = plan_training_memory(spec, settings, cpu_kernels()).bytes;
  }
  gather_all_rows(spec.sharding, store);
  if (ranks.rank() > 0) return;
  outcome.losses = losses;
  outcome.norms = norms;
  for (const std::string& name : spec.trained) {
    const View view = store.get(name);
    outcome.parameters[name].assign(view.data, view.data + view.bytes());
  }
}

Outcome train(const Model& model, const Way& way) {
  const auto file = Safetensors::open_file(golden::path("training/tokens.safetensors"));
  const std::vector<int32_t> tokens = golden::ints(*file, "tokens");
  Outcome outcome;
  outcome.gathered = on_ranks(
      way.ranks, [&](Communicator& ranks) { train_on(ranks, model, way, tokens, outcome); });
  return outcome;
}

void expect_same_bits(const Outcome& got, const Outcome& expected, const std::string& where) {
  EXPECT_EQ(got.losses, expected.losses) << where;
  EXPECT_EQ(got.norms, expected.norms) << where;
  for (const auto& [name, bytes] : expected.parameters)
    EXPECT_TRUE(got.parameters.at(name) == bytes) << where << ": " << name;
}

class ShardedTraining : public testing::TestWithParam<Model> {};

TEST_P(ShardedTraining, EveryStageGivesTheBitsOfDataParallelism) {
  const Model model = GetParam();
  for (const int ranks : {2, 4}) {
    const int64_t micro_batch = kSequences / ranks;
    const Outcome plain = train(model, {ranks, ZeroStage::none, micro_batch});
    for (const ZeroStage stage : {ZeroStage::moments, ZeroStage::gradients, ZeroStage::weights})
      expect_same_bits(train(model, {ranks, stage, micro_batch}), plain,
                       fmt::format("{} ranks, stage {}", ranks, int(stage)));
  }
}

TEST_P(ShardedTraining, AgreesWithOneProcess) {
  const Model model = GetParam();
  const Outcome alone = train(model, {1, ZeroStage::none, kSequences});
  const Outcome two = train(model, {2, ZeroStage::weights, kSequences / 2});
  // A sum in another order moves a code now and then, and a bf16 value by one step.
  const double within = model.quantized || model.dtype == DType::bf16 ? 5e-3 : 1e-5;
  ASSERT_EQ(two.losses.size(), size_t(kSteps));
  EXPECT_NEAR(two.losses[0], alone.losses[0], 1e-5 * alone.losses[0]);
  for (size_t i = 0; i < alone.losses.size(); ++i)
    EXPECT_NEAR(two.losses[i], alone.losses[i], within * alone.losses[i]) << "step " << i + 1;
}

constexpr QuantSpec kTensor{.per = Per::tensor};
INSTANTIATE_TEST_SUITE_P(
    Models, ShardedTraining,
    testing::Values(Model{"plain"}, Model{.name = "bf16", .dtype = DType::bf16, .state_bits = 8},
                    Model{"w8a8", true}, Model{"int4_clipping", true, golden::kClippingInt4},
                    Model{"trained_scales", true, golden::kClippingInt4, true},
                    Model{"trained_scales_of_tensors", true, kTensor, true},
                    Model{.name = "bf16_masters",
                          .quantized = true,
                          .dtype = DType::bf16,
                          .masters = DType::bf16,
                          .state_bits = 8},
                    Model{.name = "stochastic",
                          .quantized = true,
                          .weights = golden::kClippingInt4,
                          .rounding_seed = 5},
                    Model{.name = "biases", .quantized = true, .source = "qwen2"}),
    [](const auto& info) { return std::string(info.param.name); });

// All skip the step of one, whatever they hold of the weights: those of every rank stay finite.
TEST(ShardedFaults, fault_C10_NaNOnOneRank) {
  for (const ZeroStage stage : {ZeroStage::none, ZeroStage::moments, ZeroStage::weights}) {
    const Outcome outcome = train({"w8a8", true}, {2, stage, 2, 2});
    EXPECT_FALSE(std::isfinite(outcome.losses[2]));
    EXPECT_TRUE(std::isfinite(outcome.losses[3]));
    for (const auto& [name, bytes] : outcome.parameters) {
      std::vector<float> values(bytes.size() / sizeof(float));
      std::memcpy(values.data(), bytes.data(), bytes.size());
      EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float v) {
        return std::isfinite(v);
      })) << name;
    }
  }
}

// As the plan says before anything is allocated.
TEST(ShardedMemory, EachStageHoldsLessOfOneKindMore) {
  std::map<ZeroStage, std::map<Category, size_t>> held;
  for (const ZeroStage stage :
       {ZeroStage::none, ZeroStage::moments, ZeroStage::gradients, ZeroStage::weights}) {
    Outcome outcome = train({"w8a8", true}, {4, stage, 1});
    held[stage] = outcome.bytes;
    for (const Category kind : {Category::masters, Category::moments, Category::gradients})
      EXPECT_EQ(outcome.bytes[kind], outcome.planned[kind]) << int(stage) << name_of(kind);
  }
  // A quarter, and the norms and small matrices that every rank holds.
  const auto split = [](size_t part, size_t whole) { return double(part) < 0.36 * double(whole); };
  auto &none = held[ZeroStage::none], &moments = held[ZeroStage::moments],
       &gradients = held[ZeroStage::gradients], &weights = held[ZeroStage::weights];
  EXPECT_TRUE(split(moments[Category::moments], none[Category::moments]));
  EXPECT_TRUE(split(moments[Category::masters], none[Category::masters]));
  EXPECT_EQ(moments[Category::gradients], none[Category::gradients]);
  EXPECT_TRUE(split(gradients[Category::gradients], none[Category::gradients]));
  EXPECT_LT(weights[Category::arena], gradients[Category::arena]);
}

// What the micro-batches of a rank give is summed before, or with the gradients split after, the
// sum over the ranks.
TEST(ShardedAccumulation, MicroBatchesAgree) {
  for (const ZeroStage stage : {ZeroStage::none, ZeroStage::moments, ZeroStage::gradients}) {
    const Outcome whole = train({"plain"}, {2, stage, 2}), parts = train({"plain"}, {2, stage, 1});
    for (size_t i = 0; i < whole.losses.size(); ++i)
      EXPECT_NEAR(parts.losses[i], whole.losses[i], 1e-5 * whole.losses[i]);
    EXPECT_NEAR(parts.norms[0], whole.norms[0], 1e-4 * whole.norms[0]);
  }
}

// What --dry-run --ranks says of the links is what the ranks then exchange.
TEST(StepTraffic, IsWhatIsGathered) {
  const auto source = ModelSource::open(golden::path("llama"));
  for (const ZeroStage stage : {ZeroStage::none, ZeroStage::moments, ZeroStage::weights})
    for (const int64_t micro_batch : {1, 2}) {
      const Model model{"plain"};
      const Way way{2, stage, micro_batch};
      const auto ranks = planned_ranks(way.ranks);
      TrainingSpec spec = spec_of(*source, model, way);
      spec.sharding = {ranks.get(), stage,
                       deal_parameters(spec, source->tensors(), stage, way.ranks)};
      TrainerSettings settings;
      settings.batch = kSequences;
      settings.micro_batch = micro_batch;
      double expected = 0;
      for (const Traffic& traffic : step_traffic(spec, settings))
        if (traffic.op == "all_gather") expected += traffic.bytes * way.ranks * double(kSteps);
      // The masters at the end, so that they can be compared.
      if (stage != ZeroStage::none)
        for (const auto& [name, rows] : spec.sharding.partitions)
          expected += double(rows.count()) * sizeof(float) * double(way.ranks - 1);
      EXPECT_EQ(double(train(model, way).gathered), expected)
          << int(stage) << ", micro-batch " << micro_batch;
    }
}

TEST(PaperMachines, UnknownOnesAreRefused) {
  EXPECT_THROW(machine_named("h300"), Error);
  EXPECT_THROW(link_named("pigeon", machine_named("h200"), 8), Error);
  EXPECT_GT(link_named("ib", machine_named("h200"), 8).bandwidth,
            link_named("ib", machine_named("h200"), 16).bandwidth)
      << "one node speaks over its own link";
}

}  // namespace
}  // namespace qat
