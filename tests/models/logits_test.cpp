// Logits of every family against transformers in float32.
#include <gtest/gtest.h>

#include "tests/models/golden.h"

namespace qat {
namespace {

class Logits : public testing::TestWithParam<const char*> {};

View input(Store& store, const char* name, const std::vector<int32_t>& values) {
  const View view = store.make(name, {int64_t(values.size())}, DType::i32, Category::inputs);
  std::memcpy(view.data, values.data(), view.bytes());
  return view;
}

std::vector<float> forward(const std::string& folder, const std::vector<int32_t>& ids,
                           int64_t batch, DType dtype) {
  const auto source = ModelSource::open(folder);
  Store store;
  load_parameters(*source, store, "", DType::f32, Category::masters);
  fill_rope_table(source->config(), store, "");
  ForwardSpec spec;
  spec.config = source->config();
  spec.build.batch = batch;
  spec.build.sequence = int64_t(ids.size()) / batch;
  spec.build.dtype = dtype;
  spec.output = ForwardSpec::Output::logits;
  ForwardGraph graph = build_forward_graph(spec);
  Program program = Program::compile(std::move(graph.graph), {graph.logits}, store, cpu_kernels());
  std::vector<int32_t> positions(ids.size()), first(ids.size(), 0);
  for (size_t t = 0; t < ids.size(); ++t) positions[t] = int32_t(int64_t(t) % spec.build.sequence);
  input(store, kTokens, ids);
  input(store, kPositions, positions);
  input(store, kFirst, first);
  Stream stream;
  program.run(stream);
  const View logits = program.view(graph.logits);
  return {logits.as<float>(), logits.as<float>() + logits.count()};
}

TEST_P(Logits, MatchTransformers) {
  const std::string folder = golden::path(GetParam());
  const auto expected = Safetensors::open_file(folder + "/expected.safetensors");
  const std::vector<float> want = golden::floats(*expected, "logits");
  const std::vector<int32_t> ids = golden::ints(*expected, "ids");
  EXPECT_LT(golden::distance(forward(folder, ids, 2, DType::f32).data(), want), 1e-5);
  EXPECT_LT(golden::distance(forward(folder, ids, 2, DType::bf16).data(), want), 2e-2);
}

INSTANTIATE_TEST_SUITE_P(Families, Logits,
                         testing::Values("llama", "llama_untied", "llama3_rope",
                                         "llama3_rope_new_keys", "linear_rope", "mistral", "qwen2",
                                         "qwen3"));

}  // namespace
}  // namespace qat
