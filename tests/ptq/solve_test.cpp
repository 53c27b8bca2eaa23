// Solvers on whole models: what lies in the Store after them, what it computes, and that layers are
// taken one by one with the quantized ones before them.
#include "models/solve.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "models/layer_stream.h"
#include "tests/ptq/tiny_model.h"

namespace qat {
namespace {

using test::distance;
using test::TinyModel;

QuantSpec int4_groups(Range range = Range::full) {
  return {.bits = 4,
          .per = Per::group,
          .group = 16,
          .range = range,
          .rule = range == Range::asymmetric ? ScaleRule::min_max : ScaleRule::mse,
          .scale_type = ScaleType::portable};
}

QuantPlan weights_only(const ModelConfig& config, const QuantSpec& spec) {
  QuantPlan plan;
  for (const std::string& path : decoder_linears(config)) plan.linears[path].weight = spec;
  return plan;
}

QuantPlan stored(QuantPlan plan) {
  for (auto& [path, quant] : plan.linears) quant.stored_weight = true;
  return plan;
}

SolveOptions with(Solver solver) {
  SolveOptions options;
  options.solver = solver;
  return options;
}

TEST(LayerStreamTest, ComputesWhatTheModelComputes) {
  for (const char* family : {"llama", "qwen3"}) {
    TinyModel tiny(std::string("tests/golden/") + family);
    const auto batches = tiny.batches(2, 2, 24);
    const MeasuredModel model = tiny.measured();
    const QuantPlan plan = weights_only(tiny.config, int4_groups());
    const std::string last =
        fmt::format("model.layers.{}.self_attn.q_proj", tiny.config.layers - 1);

    Graph graph;
    Builder b(graph);
    const DecoderBuild build = build_for(model, batches);
    decoder_hidden(b, model.config, build);
    EnabledLayers before;
    for (int i = 0; i + 1 < int(tiny.config.layers); ++i) before.insert(i);
    insert_quantizers(graph, plan, before);
    Id x = kNone;
    for (const Node& node : graph.nodes)
      if (node.path == last && node.op == &kLinear) x = node.inputs[0];
    std::vector<std::vector<float>> expected;
    {
      MeasuringProgram program(std::move(graph), {x}, model, build);
      program.run_prologue();
      for (const Batch& batch : batches) {
        program.run(batch);
        const View view = program.view(x);
        expected.emplace_back(view.as<float>(), view.as<float>() + view.count());
      }
    }
    LayerStream stream(model, batches, plan);
    while (stream.layer() + 1 < tiny.config.layers) stream.advance(plan);
    size_t at = 0;
    stream.observe({}, {last}, [&](const std::string& path, const View& view, int64_t rows) {
      EXPECT_EQ(path, last);
      ASSERT_EQ(rows, 48);
      const std::vector<float> got(view.as<float>(), view.as<float>() + view.count());
      EXPECT_EQ(got, expected[at++]);
    });
    EXPECT_EQ(at, 2u);
  }
}

class Solvers : public testing::TestWithParam<Solver> {};
INSTANTIATE_TEST_SUITE_P(Both, Solvers, testing::Values(Solver::gptq, Solver::awq),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(Solvers, BeatRoundingOnTextLikeTheCalibration) {
  for (const Range range : {Range::full, Range::asymmetric}) {
    TinyModel tiny("tests/golden/llama");
    tiny.add_outlier(0, 7, 20.0f);
    tiny.add_outlier(1, 9, 20.0f);
    const auto batches = tiny.batches(12, 4, 32), other = tiny.batches(1, 4, 32, 99);
    const QuantPlan plan = weights_only(tiny.config, int4_groups(range));
    const std::vector<float> exact = tiny.logits(other[0]);
    const double rounded = distance(tiny.logits(other[0], plan), exact);
    const auto solved = solve(tiny.measured(), plan, batches, with(GetParam()));
    ASSERT_EQ(solved.size(), plan.linears.size());
    const std::vector<float> as_codes = tiny.logits(other[0], stored(plan));
    // Random tokens have no structure that GPTQ could lean on: what it gains here is little.
    EXPECT_LT(distance(as_codes, exact), (GetParam() == Solver::gptq ? 0.98 : 0.9) * rounded);
    // The masters are the values of the codes.
    EXPECT_LT(distance(tiny.logits(other[0]), as_codes), 1e-6);
    // Training starts from those values on those grids.
    QuantPlan start = plan;
    for (auto& [path, quant] : start.linears) quant.stored_grid = true;
    EXPECT_EQ(tiny.logits(other[0], start), as_codes);
    for (const SolvedLinear& linear : solved) {
      EXPECT_GT(linear.relative_error, 0.0) << linear.path;
      EXPECT_LT(linear.relative_error, 0.1) << linear.path;
    }
    for (const Store::Entry& entry : tiny.store.entries())
      EXPECT_FALSE(entry.name.starts_with("layer_stream.")) << entry.name;
  }
}

// What training moves starts from what its codes were chosen for, what it leaves alone on them.
TEST_P(Solvers, TrainedMastersStartBesideTheirCodes) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const Range range : {Range::full, Range::stretched, Range::asymmetric}) {
      TinyModel tiny("tests/golden/llama", type);
      QuantPlan plan = weights_only(tiny.config, int4_groups(range));
      const std::string frozen = "model.layers.0.mlp.down_proj";
      for (auto& [path, quant] : plan.linears)
        (path == frozen ? quant.stored_weight : quant.stored_grid) = true;
      solve(tiny.measured(), plan, tiny.batches(4, 2, 32), with(GetParam()));
      double moved = 0.0, count = 0.0;
      for (const auto& [path, quant] : plan.linears) {
        const QuantSpec& spec = *quant.weight;
        const View master = tiny.store.get(path + ".weight"),
                   codes = tiny.store.get(codes_name(path));
        const View scale = tiny.store.get(codes_scale_name(path));
        const View zero = spec.symmetric() ? View{} : tiny.store.get(codes_zero_name(path));
        std::vector<int8_t> again(size_t(codes.count()));
        std::vector<float> value(again.size());
        Quantize quantize{};
        quantize.x = master;
        quantize.given_scale = scale;
        quantize.given_zero = zero;
        quantize.codes = {reinterpret_cast<std::byte*>(again.data()), codes.shape, DType::i8};
        quantize.spec = spec;
        cpu_kernels().quantize.run(quantize, tiny.stream);
        EXPECT_TRUE(std::equal(again.begin(), again.end(), codes.as<int8_t>())) << path;
        cpu_kernels().dequantize.run(
            {codes,
             scale,
             zero,
             {reinterpret_cast<std::byte*>(value.data()), codes.shape, DType::f32},
             spec},
            tiny.stream);
        for (int64_t i = 0; i < master.count(); ++i) {
          const float got =
              type == DType::f32 ? master.as<float>()[i] : to_float(master.as<BFloat16>()[i]);
          const double away = std::fabs(double(got) - double(value[size_t(i)])) /
                              double(scale.as<float>()[i / spec.group]);
          ASSERT_LE(away, type == DType::f32 ? 0.5001 : 0.53) << path;
          if (path == frozen) {
            ASSERT_LE(away, type == DType::f32 ? 0.0 : 0.04) << path;
          } else {
            moved += away;
            count += 1.0;
          }
        }
      }
      EXPECT_GT(moved / count, 0.15) << "masters lie on their codes";
    }
}

TEST_P(Solvers, TouchOnlyWhatIsPlanned) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(2, 2, 32);
  const std::string down = "model.layers.1.mlp.down_proj", gate = "model.layers.0.mlp.gate_proj";
  QuantPlan plan;
  plan.linears[down].weight = int4_groups();
  const View other = tiny.store.get(gate + ".weight");
  const std::vector<float> before(other.as<float>(), other.as<float>() + other.count());
  const auto solved = solve(tiny.measured(), plan, batches, with(GetParam()));
  ASSERT_EQ(solved.size(), 1u);
  EXPECT_EQ(solved[0].path, down);
  EXPECT_TRUE(tiny.store.find(codes_name(down)));
  EXPECT_FALSE(tiny.store.find(codes_name(gate)));
  EXPECT_TRUE(std::equal(before.begin(), before.end(), other.as<float>()));
}

TEST_P(Solvers, StopBetweenLayers) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(1, 2, 32);
  const QuantPlan plan = weights_only(tiny.config, int4_groups());
  int asked = 0;
  const auto solved =
      solve(tiny.measured(), plan, batches, with(GetParam()), [&] { return ++asked > 1; });
  EXPECT_EQ(solved.size(), 7u);  // of the first layer
}

TEST_P(Solvers, TheSameBitsForAnyNumberOfThreads) {
  std::vector<std::vector<int8_t>> codes;
  for (const int threads : {1, 3}) {
    TinyModel tiny("tests/golden/llama", DType::bf16);
    tiny.stream = Stream(threads);
    const QuantPlan plan = weights_only(tiny.config, int4_groups());
    solve(tiny.measured(DType::bf16), plan, tiny.batches(3, 2, 32), with(GetParam()));
    std::vector<int8_t>& all = codes.emplace_back();
    for (const auto& [path, quant] : plan.linears) {
      const View view = tiny.store.get(codes_name(path));
      all.insert(all.end(), view.as<int8_t>(), view.as<int8_t>() + view.count());
    }
  }
  EXPECT_EQ(codes[0], codes[1]);
}

TEST(SolveTest, RoundToNearestDoesNothing) {
  TinyModel tiny("tests/golden/llama");
  const QuantPlan plan = weights_only(tiny.config, int4_groups());
  EXPECT_TRUE(solve(tiny.measured(), plan, tiny.batches(1, 2, 32), {}).empty());
  EXPECT_FALSE(tiny.store.find(codes_name(decoder_linears(tiny.config)[0])));
}

TEST(SolveTest, ListedGroupsComputeAsTheirMasters) {
  TinyModel tiny("tests/golden/llama");
  const auto batches = tiny.batches(2, 2, 32);
  QuantPlan plan = weights_only(tiny.config, int4_groups(Range::asymmetric));
  SolveOptions options = with(Solver::gptq);
  options.gptq.order = ActOrder::groups;
  solve(tiny.measured(), plan, batches, options);
  const std::vector<float> masters = tiny.logits(batches[0]);
  for (auto& [path, quant] : plan.linears) quant.stored_weight = quant.listed_groups = true;
  EXPECT_LT(distance(tiny.logits(batches[0], plan), masters), 1e-6);
  const View groups = tiny.store.get(codes_group_name("model.layers.0.mlp.down_proj"));
  std::vector<int32_t> count(size_t(groups.count() / 16));
  for (int64_t k = 0; k < groups.count(); ++k) ++count[size_t(groups.as<int32_t>()[k])];
  for (const int32_t columns : count) EXPECT_EQ(columns, 16);
}

}  // namespace
}  // namespace qat
