#include "recipes/run/exporting.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "engine/core/log.h"
#include "kernels/float_types.h"
#include "models/adapter.h"
#include "models/export/compressed_tensors.h"
#include "models/export/gguf.h"
#include "models/export/huggingface.h"
#include "models/export/peft.h"
#include "recipes/run/recipe/words.h"
#include "recipes/run/tokenizer_files.h"

namespace qat {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// The linear that a weight belongs to: model.layers.0.mlp.up_proj.weight ->
// model.layers.0.mlp.up_proj.
std::string module_of(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  return weight.ends_with(kSuffix) ? weight.substr(0, weight.size() - kSuffix.size()) : weight;
}

enum class Weights { on_grid, masters };

// Q8_0, Q4_K_M, F16, BF16.
bool is_type_name(std::string word) {
  std::transform(word.begin(), word.end(), word.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  if (word == "F32" || word == "F16" || word == "BF16") return true;
  return word.size() >= 4 && word[0] == 'Q' && std::isdigit(static_cast<unsigned char>(word[1])) &&
         word[2] == '_';
}

class Exporter {
 public:
  explicit Exporter(const FinishInputs& in) : in_(in) {}

  void run(recipe::ExportFormat format, const std::string& directory) {
    switch (format) {
      case recipe::ExportFormat::hf:
        return export_huggingface(directory, model(Weights::on_grid), files());
      case recipe::ExportFormat::hf_master:
        return export_huggingface(directory, model(Weights::masters), files());
      case recipe::ExportFormat::peft:
        return export_peft(directory, in_.adapters, in_.config, in_.source, in_.store);
      case recipe::ExportFormat::compressed_tensors:
        return export_compressed_tensors(directory, model(Weights::on_grid), files());
      case recipe::ExportFormat::gguf:
        export_gguf(directory, model(Weights::on_grid),
                    {.name = model_name(), .tokenizer = &in_.tokenizer});
        return;
    }
  }

 private:
  ExportModel model(Weights weights) {
    ExportModel model;
    model.config_json = in_.config_json;
    model.tensors = export_tensors(in_.config);
    if (weights == Weights::on_grid)
      for (ExportTensor& tensor : model.tensors) {
        const auto found = in_.plan.linears.find(module_of(tensor.name));
        if (found == in_.plan.linears.end() || !tensor.name.ends_with(".weight")) continue;
        tensor.quant = found->second;
        if (found->second.static_activation) {
          tensor.input_scale = in_.store.get(activation_scale_name(found->first)).as<float>()[0];
          if (const View zero = in_.store.find(activation_zero_name(found->first)))
            tensor.input_zero = zero.as<float>()[0];
        }
      }
    model.floats = [this](const ExportTensor& tensor, float* out) {
      if (tensor.quantized()) return dequantize(codes(tensor), out);
      const std::string linear = module_of(tensor.name);
      if (tensor.name.ends_with(".weight") && on_adapter_base(linear))
        return merged_weight(in_.adapters, linear, tensor.shape, in_.store, in_.kernels, in_.stream,
                             out);
      const View master = in_.store.get(tensor.name);
      in_.kernels.cast.run({master, {reinterpret_cast<std::byte*>(out), master.shape, DType::f32}},
                           in_.stream);
    };
    model.codes = [this](const ExportTensor& tensor) { return codes(tensor); };
    return model;
  }

  // Its values are made of a frozen matrix and an adapter, either of which may be plain.
  bool on_adapter_base(const std::string& linear) const {
    return in_.adapters.linears.count(linear) || in_.adapters.packed.count(linear);
  }

  // The very kernel of the training step, on the final masters.
  QuantizedMatrix codes(const ExportTensor& tensor) {
    QuantizedMatrix matrix;
    matrix.spec = *tensor.quant.weight;
    matrix.shape = tensor.shape;
    matrix.codes.resize(size_t(tensor.shape.count()));
    const int64_t scales = matrix.spec.per == Per::tensor ? 1 : tensor.shape[0] * matrix.groups();
    matrix.scales.resize(size_t(scales));
    if (!matrix.spec.symmetric()) matrix.zeros.resize(size_t(scales));
    const auto view = [](auto& values, Shape shape, DType dtype) {
      return View{reinterpret_cast<std::byte*>(values.data()), shape, dtype};
    };
    Quantize args;
    std::vector<float> merged;
    if (const std::string linear = module_of(tensor.name); on_adapter_base(linear)) {
      merged.resize(size_t(tensor.shape.count()));
      merged_weight(in_.adapters, linear, tensor.shape, in_.store, in_.kernels, in_.stream,
                    merged.data());
      args.x = view(merged, tensor.shape, DType::f32);
    } else {
      args.x = in_.store.get(tensor.name);
    }
    args.codes = view(matrix.codes, tensor.shape, DType::i8);
    args.scale = view(matrix.scales, {scales}, DType::f32);
    if (!matrix.zeros.empty()) args.zero = view(matrix.zeros, {scales}, DType::f32);
    args.spec = matrix.spec;
    in_.kernels.quantize.run(args, in_.stream);
    return matrix;
  }

  // What the model is called: by where it came from, or by its run.
  std::string model_name() const {
    fs::path path = in_.source.empty() ? fs::path(in_.recipe.out) : fs::path(in_.source);
    if (path.filename().empty()) path = path.parent_path();
    std::string name = path.filename().string();
    if (!name.ends_with(".gguf")) return name;
    name.resize(name.size() - std::string_view(".gguf").size());
    // "SmolLM2-135M-Instruct.Q4_1": the type it was read from is not the one it is written in.
    const size_t end = name.find_last_of("-.");
    if (end != std::string::npos && end + 1 < name.size() && is_type_name(name.substr(end + 1)))
      name.resize(end);
    return name;
  }

  ExportFiles files() const {
    ExportFiles files;
    if (fs::is_directory(in_.source)) files.source_directory = in_.source;
    files.texts = tokenizer_files(in_.tokenizer, in_.chat_template);
    return files;
  }

  const FinishInputs& in_;
};

}  // namespace

json export_all(const FinishInputs& in) {
  json done = json::object();
  if (in.recipe.exports.empty()) return done;
  const std::string root = in.recipe.out + "/export";
  fs::create_directories(root);
  Exporter exporter(in);
  for (const recipe::ExportFormat format : in.recipe.exports) {
    const std::string name = recipe::word_of(format);
    const std::string directory = root + "/" + name;
    if (!in.adapters.packed.empty() && format != recipe::ExportFormat::peft)
      log::info("{}: the adapter is merged into the dequantized {} base", name,
                recipe::word_of(in.recipe.adapter.base));
    if (!in.adapters.packed.empty() && format == recipe::ExportFormat::peft)
      log::info(
          "peft: the adapter belongs to the {} base; on the unquantized one it is another "
          "model",
          recipe::word_of(in.recipe.adapter.base));
    exporter.run(format, directory);
    uint64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(directory))
      if (entry.path().extension() == ".safetensors" || entry.path().extension() == ".gguf")
        bytes += entry.file_size();
    log::info("exported {} ({:.1f} MiB of tensors), read back equal bit for bit", directory,
              double(bytes) / 1048576);
    done[name] = {{"path", directory}, {"tensor_bytes", bytes}, {"verified", true}};
  }
  return done;
}

}  // namespace qat
