// Adapters against peft (recorded values), against the full model's own gradients, and under every
// switch of the engine.
#include "models/adapter.h"

#include <gtest/gtest.h>

#include "kernels/float_types.h"
#include "models/export/peft.h"
#include "tests/models/golden.h"

namespace qat {
namespace {

constexpr int64_t kSequences = 2, kLength = 32, kSteps = 5;

struct Case {
  const char* run = "lora";
  Recompute recompute = Recompute::cheap;
  Switch hoist = Switch::on, fuse = Switch::off;
  Planning planning = Planning::reuse;
  int64_t micro_batch = 2, steps = kSteps;
  DType dtype = DType::f32, base_dtype = DType::f32, adapter_dtype = DType::f32;
  std::optional<PackedSpec> packed = {};
  std::optional<QuantSpec> grid = {};
  float dropout = 0.0f;
};

struct Outcome {
  std::vector<double> losses, norms;
  std::map<std::string, std::vector<float>> gradients, parameters;  ///< step 1; at the end
  std::map<Category, size_t> bytes;
};

std::vector<float> copy(const View& view) {
  std::vector<float> values(size_t(view.count()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = view.dtype == DType::f32 ? view.as<float>()[i] : to_float(view.as<BFloat16>()[i]);
  return values;
}

class Tokens {
 public:
  Tokens() {
    const auto file = Safetensors::open_file(golden::path("training/tokens.safetensors"));
    ids_ = golden::ints(*file, "tokens");
  }
  Batch next() {
    Batch batch;
    batch.rows = kSequences;
    batch.sequence = kLength;
    for (int64_t row = 0; row < kSequences; ++row)
      for (int64_t t = 0; t < kLength; ++t) {
        const int32_t* at = ids_.data() + (step_ * kSequences + row) * (kLength + 1) + t;
        batch.ids.push_back(at[0]);
        batch.targets.push_back(at[1]);
        batch.positions.push_back(int32_t(t));
        batch.first.push_back(0);
      }
    batch.valid_targets = kSequences * kLength;
    ++step_;
    return batch;
  }

 private:
  std::vector<int32_t> ids_;
  int64_t step_ = 0;
};

AdapterPlan plan_of(const Case& setup, const ModelConfig& config) {
  AdapterPlan plan;
  plan.linears = read_peft_plan(golden::path(std::string("adapters/") + setup.run), config);
  plan.dtype = setup.adapter_dtype;
  plan.dropout = setup.dropout;
  plan.seed = 5;
  if (setup.packed)
    for (const std::string& path : decoder_linears(config)) plan.packed[path] = *setup.packed;
  return plan;
}

QuantPlan grids_of(const Case& setup, const ModelConfig& config) {
  QuantPlan plan;
  if (setup.grid)
    for (const std::string& path : decoder_linears(config))
      plan.linears[path] = {.weight = setup.grid, .activation = QuantSpec{}};
  return plan;
}

OptimizerSettings optimizer_settings(double& learning_rate, double& clip) {
  std::ifstream text(golden::path("training/training.json"));
  const nlohmann::json o = nlohmann::json::parse(text).at("optimizer");
  learning_rate = o.at("learning_rate");
  clip = o.at("clip");
  return {.beta1 = o.at("beta1").get<float>(),
          .beta2 = o.at("beta2").get<float>(),
          .eps = o.at("eps").get<float>(),
          .weight_decay = o.at("weight_decay_matrices").get<float>()};
}

Outcome run_trainer(const TrainingSpec& spec, const Case& setup, Store& store) {
  double learning_rate = 0;
  TrainerSettings settings;
  settings.optimizer = optimizer_settings(learning_rate, settings.clip_grad_norm);
  settings.batch = kSequences;
  settings.micro_batch = setup.micro_batch;
  settings.sequence = kLength;
  settings.compile.planning = setup.planning;
  Tokens tokens;
  Stream stream;
  Trainer trainer(
      settings, store, cpu_kernels(), stream, spec.trained, [&](int64_t) { return tokens.next(); },
      [&](const EnabledLayers& layers) { return build_training_graph(spec, layers); },
      [&](int64_t) { return setup.grid ? all_layers(spec.config) : EnabledLayers{}; },
      [&](int64_t) { return learning_rate; });
  Outcome outcome;
  for (int64_t step = 0; step < setup.steps; ++step) {
    const StepResult result = trainer.step();
    outcome.losses.push_back(result.loss);
    outcome.norms.push_back(result.grad_norm);
    if (step == 0)
      for (const std::string& name : spec.trained)
        if (const View gradient = store.find("grad." + name))
          outcome.gradients[name] = copy(gradient);
  }
  for (const std::string& name : spec.trained) outcome.parameters[name] = copy(store.get(name));
  outcome.bytes = store.bytes_by_category();
  return outcome;
}

TrainingSpec spec_of(const Case& setup, const ModelConfig& config) {
  TrainingSpec spec;
  spec.config = config;
  spec.build.batch = setup.micro_batch;
  spec.build.sequence = kLength;
  spec.build.dtype = setup.dtype;
  spec.build.weight_dtype = setup.base_dtype;
  spec.plan = grids_of(setup, config);
  spec.recompute = setup.recompute;
  spec.hoist = setup.hoist;
  spec.fuse = setup.fuse;
  return spec;
}

Outcome train(const Case& setup) {
  const auto source = ModelSource::open(golden::path("llama"));
  const ModelConfig& config = source->config();
  Store store;
  Stream stream;
  TrainingSpec spec = spec_of(setup, config);
  spec.adapters = plan_of(setup, config);
  for (const SourceTensor& t : adapter_tensors(spec.adapters, config))
    spec.trained.push_back(t.name);
  fill_rope_table(config, store, "");
  load_base(*source, spec.adapters, setup.base_dtype, store, cpu_kernels(), stream);
  load_peft(golden::path(std::string("adapters/") + setup.run), spec.adapters, config, store,
            cpu_kernels(), stream);
  return run_trainer(spec, setup, store);
}

class Peft : public testing::TestWithParam<const char*> {};

TEST_P(Peft, FiveStepsAreThoseOfPeft) {
  const std::string run = GetParam();
  const Outcome got = train({.run = GetParam()});
  std::ifstream text(golden::path("adapters/adapters.json"));
  const nlohmann::json expected = nlohmann::json::parse(text).at(run);
  for (size_t i = 0; i < size_t(kSteps); ++i) {
    EXPECT_NEAR(got.losses[i], expected.at("losses")[i].get<double>(), 1e-5 * got.losses[i]);
    EXPECT_NEAR(got.norms[i], expected.at("gradient_norms")[i].get<double>(), 1e-4 * got.norms[i]);
  }
  const auto file = Safetensors::open_file(golden::path("adapters/" + run + ".safetensors"));
  EXPECT_GT(got.gradients.size(), 0u);
  EXPECT_EQ(got.gradients.size(), got.parameters.size());
  for (const auto& [name, gradient] : got.gradients)
    EXPECT_LT(golden::distance(gradient.data(), golden::floats(*file, "gradient." + name)), 1e-4)
        << name;
  for (const auto& [name, parameter] : got.parameters)
    EXPECT_LT(golden::distance(parameter.data(), golden::floats(*file, "parameter." + name)), 1e-4)
        << name;
}

TEST_P(Peft, ForwardIsThatOfPeftBesideAndMerged) {
  const Case setup{.run = GetParam()};
  const auto source = ModelSource::open(golden::path("llama"));
  const ModelConfig& config = source->config();
  Store store;
  Stream stream;
  ForwardSpec spec;
  spec.config = config;
  spec.adapters = plan_of(setup, config);
  spec.build.batch = kSequences;
  spec.build.sequence = kLength;
  spec.build.dtype = DType::f32;
  spec.output = ForwardSpec::Output::logits;
  fill_rope_table(config, store, "");
  load_base(*source, spec.adapters, DType::f32, store, cpu_kernels(), stream);
  load_peft(golden::path(std::string("adapters/") + setup.run), spec.adapters, config, store,
            cpu_kernels(), stream);
  const auto file =
      Safetensors::open_file(golden::path(std::string("adapters/") + setup.run + ".safetensors"));
  const std::vector<float> expected = golden::floats(*file, "logits");
  for (const bool merged : {false, true}) {
    // A plan without a grid is what merges: nothing else is changed.
    if (merged)
      for (const std::string& path : decoder_linears(config)) spec.plan.linears[path] = {};
    ForwardGraph forward = build_forward_graph(spec);
    Program program =
        Program::compile(std::move(forward.graph), {forward.logits}, store, cpu_kernels());
    const Batch batch = Tokens().next();
    std::memcpy(store.get(kTokens).data, batch.ids.data(), batch.ids.size() * 4);
    std::memcpy(store.get(kPositions).data, batch.positions.data(), batch.ids.size() * 4);
    std::memcpy(store.get(kFirst).data, batch.first.data(), batch.ids.size() * 4);
    program.run(stream);
    EXPECT_LT(golden::distance(program.view(forward.logits).as<float>(), expected), 2e-5) << merged;
  }
}

INSTANTIATE_TEST_SUITE_P(Runs, Peft, testing::Values("lora", "rslora", "dora"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Adapter, NothingOfTheBaseIsTrainedOrKept) {
  for (const std::optional<QuantSpec> grid :
       {std::optional<QuantSpec>(), std::optional(QuantSpec{}),
        std::optional(golden::kClippingInt4)}) {
    const Outcome outcome =
        train({.run = "dora", .steps = 1, .packed = PackedSpec{}, .grid = grid});
    size_t elements = 0;
    for (const auto& [name, values] : outcome.parameters) elements += values.size();
    EXPECT_EQ(outcome.gradients.size(), outcome.parameters.size());
    EXPECT_EQ(outcome.bytes.at(Category::masters), elements * 4);
    EXPECT_EQ(outcome.bytes.at(Category::gradients), elements * 4);
    EXPECT_EQ(outcome.bytes.at(Category::moments), elements * 8);
  }
}

// What recompute, hoist and the memory plan promise, also with dropout, packed bases and grids.
TEST(Adapter, SameBitsUnderEverySwitch) {
  for (const char* run : {"lora", "dora"})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int variant : {0, 1, 2}) {
        Case setup{.run = run, .steps = 2, .dtype = dtype};
        if (variant == 0) setup.dropout = 0.3f;
        if (variant == 1) setup.packed = PackedSpec{PackedType::nf4, true};
        if (variant == 2) setup.grid = golden::kClippingInt4;
        setup.recompute = Recompute::off;
        setup.hoist = Switch::off;
        setup.planning = Planning::no_reuse;
        const Outcome plain = train(setup);
        for (const Recompute recompute : {Recompute::off, Recompute::cheap, Recompute::block})
          for (const Switch hoist : {Switch::off, Switch::on}) {
            setup.recompute = recompute;
            setup.hoist = hoist;
            setup.planning = Planning::reuse;
            const Outcome other = train(setup);
            EXPECT_EQ(other.losses, plain.losses) << run << variant;
            EXPECT_EQ(other.parameters, plain.parameters) << run << variant;
          }
      }
}

// Dropout's mask follows the place of an element in the batch, so two micro-batches drop the same.
TEST(Adapter, MicroBatchesAddUp) {
  for (const char* run : {"lora", "dora"})
    for (const int variant : {0, 1, 2}) {
      Case setup{.run = run, .steps = 1};
      if (variant == 0) setup.dropout = 0.3f;
      if (variant == 1) setup.grid = QuantSpec{};
      if (variant == 2) setup.grid = golden::kClippingInt4;
      const Outcome one = train(setup);
      setup.micro_batch = 1;
      const Outcome two = train(setup);
      EXPECT_NEAR(two.losses[0], one.losses[0], 1e-6 * one.losses[0]);
      for (const auto& [name, gradient] : one.gradients)
        EXPECT_LT(golden::distance(two.gradients.at(name).data(), gradient), 1e-4) << name;
    }
}

// A product over a packed matrix is the product over its values.
TEST(Adapter, PackedBaseEqualsItsValues) {
  for (const PackedSpec spec : {PackedSpec{PackedType::int8}, PackedSpec{PackedType::nf4, true},
                                PackedSpec{PackedType::nf4}, PackedSpec{PackedType::fp4, true}}) {
    const Case setup{.run = "dora", .steps = 2, .packed = spec};
    const Outcome packed = train(setup);

    const auto source = ModelSource::open(golden::path("llama"));
    const ModelConfig& config = source->config();
    Store store, other;
    Stream stream;
    Case unpacked = setup;
    unpacked.packed.reset();
    TrainingSpec training = spec_of(unpacked, config);
    training.adapters = plan_of(unpacked, config);
    for (const SourceTensor& t : adapter_tensors(training.adapters, config))
      training.trained.push_back(t.name);
    fill_rope_table(config, store, "");
    load_base(*source, training.adapters, DType::f32, store, cpu_kernels(), stream);
    AdapterPlan only_packed;
    only_packed.packed = plan_of(setup, config).packed;
    load_base(*source, only_packed, DType::f32, other, cpu_kernels(), stream);
    for (const std::string& path : decoder_linears(config))
      merged_weight(only_packed, path, linear_shape(config, path), other, cpu_kernels(), stream,
                    store.get(path + ".weight").as<float>());
    load_peft(golden::path("adapters/dora"), training.adapters, config, store, cpu_kernels(),
              stream);
    const Outcome plain = run_trainer(training, unpacked, store);
    EXPECT_EQ(packed.losses, plain.losses);
    EXPECT_EQ(packed.parameters, plain.parameters);
  }
}

// The gradients of A, B and m follow from the gradient of the merged matrix, which training the
// whole model from the merged weights gives on the same grid.
TEST(Adapter, QuantizedGradientsFollowFromTheMergedMatrix) {
  for (const char* run : {"rslora", "dora"})
    for (const QuantSpec grid : {QuantSpec{}, golden::kClippingInt4}) {
      const Case setup{.run = run, .steps = 1, .grid = grid};
      const Outcome adapted = train(setup);

      const auto source = ModelSource::open(golden::path("llama"));
      const ModelConfig& config = source->config();
      const AdapterPlan plan = plan_of(setup, config);
      Store store, base;
      Stream stream;
      load_base(*source, plan, DType::f32, base, cpu_kernels(), stream);
      load_peft(golden::path(std::string("adapters/") + run), plan, config, base, cpu_kernels(),
                stream);
      load_parameters(*source, store, "", DType::f32, Category::masters);
      for (const std::string& path : decoder_linears(config))
        merged_weight(plan, path, linear_shape(config, path), base, cpu_kernels(), stream,
                      store.get(path + ".weight").as<float>());
      fill_rope_table(config, store, "");
      TrainingSpec spec = spec_of(setup, config);
      for (const SourceTensor& t : expected_tensors(config)) spec.trained.push_back(t.name);
      const Outcome whole = run_trainer(spec, setup, store);
      EXPECT_DOUBLE_EQ(whole.losses[0], adapted.losses[0]);

      for (const auto& [path, adapter] : plan.linears) {
        const Shape w = linear_shape(config, path);
        const int64_t O = w[0], K = w[1], R = adapter.rank;
        const std::vector<float>& dw = whole.gradients.at(path + ".weight");
        const std::vector<float> a = copy(base.get(lora_a_name(path)));
        const std::vector<float> b = copy(base.get(lora_b_name(path)));
        const std::vector<float> frozen = copy(base.get(path + ".weight"));
        const double s = double(adapter.scale());
        std::vector<double> gain(size_t(O), 1.0), length(size_t(O), 1.0), dm(size_t(O), 0.0);
        for (int64_t o = 0; o < O && adapter.kind == AdapterKind::dora; ++o) {
          double square = 0, along = 0;
          for (int64_t k = 0; k < K; ++k) {
            double v = double(frozen[size_t(o * K + k)]);
            for (int64_t r = 0; r < R; ++r)
              v += s * double(b[size_t(o * R + r)]) * double(a[size_t(r * K + k)]);
            square += v * v;
            along += double(dw[size_t(o * K + k)]) * v;
          }
          length[size_t(o)] = std::sqrt(square);
          const float m = base.get(magnitude_name(path)).as<float>()[o];
          gain[size_t(o)] = double(m) / length[size_t(o)];
          dm[size_t(o)] = along / length[size_t(o)];
        }
        std::vector<float> da(size_t(R * K)), db(size_t(O * R));
        for (int64_t r = 0; r < R; ++r)
          for (int64_t k = 0; k < K; ++k) {
            double sum = 0;
            for (int64_t o = 0; o < O; ++o)
              sum += double(b[size_t(o * R + r)]) * gain[size_t(o)] * double(dw[size_t(o * K + k)]);
            da[size_t(r * K + k)] = float(s * sum);
          }
        for (int64_t o = 0; o < O; ++o)
          for (int64_t r = 0; r < R; ++r) {
            double sum = 0;
            for (int64_t k = 0; k < K; ++k)
              sum += double(dw[size_t(o * K + k)]) * double(a[size_t(r * K + k)]);
            db[size_t(o * R + r)] = float(s * gain[size_t(o)] * sum);
          }
        EXPECT_LT(golden::distance(adapted.gradients.at(lora_a_name(path)).data(), da), 1e-5)
            << path;
        EXPECT_LT(golden::distance(adapted.gradients.at(lora_b_name(path)).data(), db), 1e-5)
            << path;
        if (adapter.kind == AdapterKind::dora) {
          EXPECT_LT(golden::distance(adapted.gradients.at(magnitude_name(path)).data(),
                                     std::vector<float>(dm.begin(), dm.end())),
                    1e-5)
              << path;
        }
      }
    }
}

TEST(Adapter, BFloat16FactorsFollowTheirFloatTwins) {
  const Case setup{.run = "lora", .steps = 3};
  Case narrow = setup;
  narrow.adapter_dtype = DType::bf16;
  const Outcome f32 = train(setup), bf16 = train(narrow);
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(bf16.losses[i], f32.losses[i], 2e-2);
  EXPECT_EQ(2 * bf16.bytes.at(Category::masters), f32.bytes.at(Category::masters));
}

TEST(Adapter, FreshAdaptersChangeNothing) {
  const auto source = ModelSource::open(golden::path("llama"));
  const ModelConfig& config = source->config();
  AdapterPlan plan;
  for (const std::string& path : decoder_linears(config))
    plan.linears[path] = {.rank = 4, .alpha = 8, .kind = AdapterKind::dora};
  Store store;
  Stream stream;
  load_base(*source, plan, DType::f32, store, cpu_kernels(), stream);
  initialize_adapters(plan, config, 3, store, cpu_kernels(), stream);
  std::vector<float> merged;
  for (const auto& [path, adapter] : plan.linears) {
    const Shape w = linear_shape(config, path);
    merged.resize(size_t(w.count()));
    merged_weight(plan, path, w, store, cpu_kernels(), stream, merged.data());
    EXPECT_EQ(merged, copy(store.get(path + ".weight"))) << path;
    const std::vector<float> a = copy(store.get(lora_a_name(path)));
    const float bound = float(1.0 / std::sqrt(double(w[1])));
    double square = 0;
    for (const float value : a) {
      EXPECT_LE(std::abs(value), bound);
      square += double(value) * double(value);
    }
    // A uniform spread has a third of its bound's square as variance.
    EXPECT_NEAR(square / double(a.size()), double(bound) * double(bound) / 3, 0.2 * bound * bound);
  }
}

TEST(Adapter, AnotherBaseHasAnotherIdentity) {
  const auto source = ModelSource::open(golden::path("llama"));
  const auto identity = [&](std::optional<PackedSpec> packed, float change) {
    Store store;
    Stream stream;
    AdapterPlan plan = plan_of({.packed = packed}, source->config());
    load_base(*source, plan, DType::bf16, store, cpu_kernels(), stream);
    store.get("model.norm.weight").as<float>()[3] += change;
    return base_identity(store);
  };
  const std::string nf4 = identity(PackedSpec{}, 0.0f);
  EXPECT_EQ(nf4, identity(PackedSpec{}, 0.0f));
  EXPECT_NE(nf4, identity(PackedSpec{}, 1e-3f));
  EXPECT_NE(nf4, identity(PackedSpec{PackedType::fp4}, 0.0f));
  EXPECT_NE(nf4, identity({}, 0.0f));
}

}  // namespace
}  // namespace qat
