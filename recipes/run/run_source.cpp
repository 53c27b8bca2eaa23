#include "recipes/run/run_source.h"

#include <algorithm>
#include <filesystem>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/io/json.h"
#include "engine/train/checkpoint.h"
#include "kernels/float_types.h"
#include "models/families.h"
#include "models/source_kinds.h"
#include "recipes/run/model_bundle.h"

namespace qat {

namespace fs = std::filesystem;

namespace {

constexpr size_t kConfigBytes = size_t(16) << 20;

class RunSource : public ModelSource {
 public:
  RunSource(const std::string& run, Checkpoint checkpoint)
      : path_(model_directory(run)),
        json_(read_text_file(path_ + "/config.json", kConfigBytes)),
        config_(config_from_huggingface(parse_json_object(json_, path_ + "/config.json"),
                                        path_ + "/config.json")),
        checkpoint_(std::move(checkpoint)) {
    // Moments and scales lie there as well: only what the model needs is looked for.
    std::vector<SourceTensor> stored;
    for (const SourceTensor& tensor : expected_tensors(config_))
      if (const ConstView view = checkpoint_.find(tensor.name))
        stored.push_back({tensor.name, view.shape});
    tensors_ = match_tensors(config_, checkpoint_.path(), stored);
  }

  const std::string& path() const override { return path_; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  std::string config_json() const override { return json_; }

  void read(const std::string& name, float* out) const override {
    const ConstView from = checkpoint_.find(name);
    const int64_t count = from.count();
    if (from.dtype == DType::f32)
      std::copy_n(from.as<float>(), count, out);
    else if (from.dtype == DType::bf16)
      for (int64_t i = 0; i < count; ++i) out[i] = to_float(from.as<BFloat16>()[i]);
    else
      refuse("{}: {} is neither f32 nor bf16", checkpoint_.path(), name);
    check_finite(checkpoint_.path(), name, out, count);
  }

 private:
  std::string path_, json_;
  ModelConfig config_;
  Checkpoint checkpoint_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace

bool is_run_directory(const std::string& path) {
  return fs::is_directory(path) && fs::exists(path + "/recipe.yaml") &&
         fs::exists(model_directory(path) + "/config.json");
}

std::string tokenizer_path(const std::string& path) {
  return is_run_directory(path) ? model_directory(path) : path;
}

OpenedSource open_source(const std::string& path, const std::string& key) {
  if (!fs::exists(path))
    refuse(
        "{}: {} does not exist; expected a Hugging Face model directory, a .gguf file or a run "
        "directory",
        key, path);
  if (!is_run_directory(path)) return {ModelSource::open(path), ""};
  FoundCheckpoint found = find_checkpoint(path + "/checkpoints");
  if (!found.checkpoint)
    refuse(
        "{}: the run {} has no whole checkpoint; run qat-train on its recipe first, or name the "
        "model it started from",
        key, path);
  log::info("{}: the high-precision weights of {}", key, found.checkpoint->path());
  std::string name =
      fmt::format("{}, saved by {}", found.checkpoint->path(), found.checkpoint->run_id());
  return {std::make_unique<RunSource>(path, std::move(*found.checkpoint)), std::move(name)};
}

}  // namespace qat
