// Quantized embeddings and head: the same as a model whose tables were put on the grid beforehand,
// with gradients that pass into one matrix where the two are tied.
#include <gtest/gtest.h>

#include "tests/models/golden.h"

namespace qat {
namespace {

QuantSpec q8_0() {
  return {.bits = 8, .per = Per::group, .group = 32, .scale_type = ScaleType::f16};
}

QuantPlan tables(const ModelConfig& config, bool head_input) {
  QuantPlan plan;
  plan.linears[kEmbeddingPath].weight = q8_0();
  if (!config.tied_head) plan.linears[kHeadPath].weight = q8_0();
  if (head_input) plan.linears[kHeadPath].activation = q8_0();
  return plan;
}

class Model {
 public:
  explicit Model(const std::string& name) : source_(ModelSource::open(golden::path(name))) {
    load_parameters(*source_, store_, "", DType::f32, Category::masters);
    fill_rope_table(config(), store_, "");
    const auto expected = Safetensors::open_file(golden::path(name) + "/expected.safetensors");
    const std::vector<int32_t> ids = golden::ints(*expected, "ids");
    tokens_ = int64_t(ids.size());
    fill(kTokens, [&](int64_t t) { return ids[size_t(t)]; });
    fill(kPositions, [](int64_t t) { return int32_t(t); });
    fill(kFirst, [](int64_t) { return 0; });
    fill(kTargets, [&](int64_t t) { return t + 1 < tokens_ ? ids[size_t(t) + 1] : -1; });
    store_.make(kInvTokens, {1}, DType::f32, Category::inputs).as<float>()[0] = 0.125f;
  }

  const ModelConfig& config() const { return source_->config(); }
  Store& store() { return store_; }
  Stream& stream() { return stream_; }

  std::vector<float> logits(const QuantPlan& plan) {
    ForwardSpec spec;
    spec.config = config();
    spec.plan = plan;
    spec.fuse = Switch::on;
    spec.build.sequence = tokens_;
    spec.build.dtype = DType::f32;
    spec.output = ForwardSpec::Output::logits;
    ForwardGraph graph = build_forward_graph(spec);
    Program program =
        Program::compile(std::move(graph.graph), {graph.logits}, store_, cpu_kernels());
    program.run(stream_);
    return floats(program.view(graph.logits));
  }

  TrainingSpec training(const QuantPlan& plan) const {
    TrainingSpec spec;
    spec.config = config();
    spec.plan = plan;
    spec.build.sequence = tokens_;
    spec.build.dtype = DType::f32;
    for (const SourceTensor& tensor : source_->tensors()) spec.trained.push_back(tensor.name);
    return spec;
  }

  /// The gradient of a parameter.
  std::vector<float> gradient(const QuantPlan& plan, const std::string& name) {
    TrainingGraph graph = build_training_graph(training(plan), all_layers(config()));
    std::vector<Id> keep = {graph.sums};
    Id wanted = kNone;
    for (const ParameterGradient& g : graph.gradients) {
      keep.push_back(g.gradient);
      if (g.name == name) wanted = g.gradient;
    }
    Program program = Program::compile(std::move(graph.graph), keep, store_, cpu_kernels());
    program.run_prologue(stream_);
    program.run_body(stream_, {.first_micro_batch = true});
    program.run_epilogue(stream_);
    return floats(program.view(wanted));
  }

  /// Puts a matrix of the Store on its grid.
  void snap(const std::string& name) {
    const View w = store_.get(name);
    FakeQuant args{};
    args.x = args.y = w;
    std::vector<float> scales(size_t(w.count() / 32));
    args.scale = {
        reinterpret_cast<std::byte*>(scales.data()), {w.shape[0], w.shape[1] / 32}, DType::f32};
    args.spec = q8_0();
    cpu_kernels().fake_quant.run(args, stream_);
  }

 private:
  template <class Value>
  void fill(const char* name, Value value) {
    const View view = store_.make(name, {tokens_}, DType::i32, Category::inputs);
    for (int64_t t = 0; t < tokens_; ++t) view.as<int32_t>()[t] = int32_t(value(t));
  }
  static std::vector<float> floats(const ConstView& view) {
    return {view.as<float>(), view.as<float>() + view.count()};
  }

  std::unique_ptr<ModelSource> source_;
  Store store_;
  Stream stream_;
  int64_t tokens_ = 0;
};

class Tables : public testing::TestWithParam<const char*> {};

TEST_P(Tables, ComputeAsTablesOnTheGrid) {
  Model quantized(GetParam()), snapped(GetParam());
  const std::vector<float> got = quantized.logits(tables(quantized.config(), false));
  EXPECT_NE(got, snapped.logits({}));
  snapped.snap("model.embed_tokens.weight");
  if (!snapped.config().tied_head) snapped.snap("lm_head.weight");
  EXPECT_EQ(got, snapped.logits({}));
  // The head's input, too, changes the logits, a little.
  const std::vector<float> with_input = quantized.logits(tables(quantized.config(), true));
  EXPECT_NE(with_input, got);
  EXPECT_LT(golden::distance(with_input.data(), got), 0.02);
}

TEST_P(Tables, GradientsPassIntoTheMasters) {
  Model quantized(GetParam()), snapped(GetParam());
  snapped.snap("model.embed_tokens.weight");
  if (!snapped.config().tied_head) snapped.snap("lm_head.weight");
  const QuantPlan plan = tables(quantized.config(), false);
  std::vector<std::string> names = {"model.embed_tokens.weight", "model.norm.weight"};
  if (!quantized.config().tied_head) names.push_back("lm_head.weight");
  for (const std::string& name : names) {
    const std::vector<float> expected = snapped.gradient({}, name);
    const std::vector<float> got = quantized.gradient(plan, name);
    // Straight through: what is the same, but for the few values that clip.
    size_t stopped = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i] == 0.0f && expected[i] != 0.0f)
        ++stopped;
      else
        ASSERT_EQ(got[i], expected[i]) << name << " " << i;
    }
    EXPECT_LE(stopped, got.size() / 100) << name;
  }
}

TEST_P(Tables, WaitForTheFirstLayer) {
  Model model(GetParam());
  const TrainingSpec spec = model.training(tables(model.config(), true));
  const auto quantizers = [&](const EnabledLayers& layers) {
    int count = 0;
    for (const Node& node : build_training_graph(spec, layers).graph.nodes)
      count += node.op == &kFakeQuant && !node.backward;
    return count;
  };
  EXPECT_EQ(quantizers({}), 0);
  // One table where they are tied; and the head's input.
  EXPECT_EQ(quantizers({1}), model.config().tied_head ? 2 : 3);
}

INSTANTIATE_TEST_SUITE_P(Models, Tables, testing::Values("llama", "llama_untied", "qwen3"));

}  // namespace
}  // namespace qat
