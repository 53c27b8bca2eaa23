// What a file computes against what was trained, on stories260k (when QAT_TEST_DATA names the
// folder with it): a file that is right passes, and one of another matrix does not, where the
// runtime's activations and tensors in 16 bits blur the comparison too.
#include "recipes/run/export_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "kernels/backend.h"
#include "models/decoder.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/quant_setup.h"
#include "tests/io/files.h"
#include "tests/setup/options.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

class ExportCheckTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("QAT_TEST_DATA");
    if (!data) GTEST_SKIP() << "QAT_TEST_DATA is not set";
    bundle_ = open_model(std::string(data) + "/stories260k", store_, cpu_kernels(), stream_);
    fill_rope_table(bundle_.config, store_, "");
    bundle_.plan = make_quant_setup(test::preset("portable_w4"), bundle_.config).plan;
    inputs_.emplace(ExportInputs{.config = bundle_.config,
                                 .config_json = bundle_.config_json,
                                 .source = bundle_.source,
                                 .name = "stories",
                                 .tokenizer = *bundle_.tokenizer,
                                 .plan = bundle_.plan,
                                 .adapters = bundle_.adapters,
                                 .store = store_,
                                 .kernels = cpu_kernels(),
                                 .stream = stream_,
                                 .provenance = ""});
    TokenizeOptions tokenize;
    tokenize.encoder = text_encoder(*bundle_.tokenizer, bundle_.config);
    choose_text({}, tokenize, *inputs_);
  }

  std::string written(recipe::ExportFormat format) {
    const std::string out = folder_.file("out");
    export_as(*inputs_, format, out);
    if (format != recipe::ExportFormat::gguf) return out;
    for (const auto& entry : fs::directory_iterator(out))
      if (entry.path().extension() == ".gguf") return entry.path();
    return "";
  }

  std::string fault(const std::string& path, StoredType type) {
    return ExportCheck(*inputs_).find_fault(path, bundle_.plan, type);
  }

  void swap_rows(const std::string& matrix) {
    const View view = store_.get(matrix);
    float* row = view.as<float>();
    std::swap_ranges(row, row + view.shape.cols(), row + view.shape.cols());
  }

  Store store_;
  Stream stream_{2};
  ModelBundle bundle_;
  std::optional<ExportInputs> inputs_;
  const test::Folder folder_;
};

TEST_F(ExportCheckTest, AGgufFileUnderItsRuntimesActivations) {
  const std::string file = written(recipe::ExportFormat::gguf);
  EXPECT_EQ(fault(file, StoredType::f16), "");
  swap_rows("model.layers.2.mlp.up_proj.weight");
  const std::string said = fault(file, StoredType::f16);
  EXPECT_NE(said.find("its logits are not the trained model's"), std::string::npos) << said;
  EXPECT_NE(said.find("activations as they are"), std::string::npos) << said;
}

TEST_F(ExportCheckTest, CompressedTensors) {
  const std::string file = written(recipe::ExportFormat::compressed_tensors);
  EXPECT_EQ(fault(file, StoredType::f32), "");
  swap_rows("model.layers.2.mlp.up_proj.weight");
  EXPECT_NE(fault(file, StoredType::f32).find("KL"), std::string::npos);
}

}  // namespace
}  // namespace qat
