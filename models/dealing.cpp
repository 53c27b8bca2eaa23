#include "models/dealing.h"

#include <algorithm>
#include <optional>

#include "engine/train/optimizer.h"
#include "models/decoder.h"

namespace qat {

namespace {

bool trains(const TrainingSpec& spec, const std::string& name) {
  return std::find(spec.trained.begin(), spec.trained.end(), name) != spec.trained.end();
}

// A row is quantized on its own.
bool rows_stand_alone(const LinearQuant& quant) {
  if (!quant.weight) return true;
  return quant.weight->per != Per::tensor && !(quant.trained_scale && !quant.weight->symmetric());
}

// The master of the head, where it is tied, is the table.
std::string master_of(const std::string& path, const TrainingSpec& spec) {
  const bool tied = path == kHeadPath && spec.config.tied_head;
  return (tied ? std::string(kEmbeddingPath) : path) + ".weight";
}

}  // namespace

Partitions deal_parameters(const TrainingSpec& spec, const std::vector<SourceTensor>& tensors,
                           ZeroStage stage, int ranks) {
  Partitions dealt;
  const auto deal = [&](const std::string& name, const Shape& shape) {
    if (shape.rank() == 2 && shape.count() >= kSmallestBlockwise)
      dealt.emplace(name, deal_rows(shape[0], shape[1], ranks));
  };
  for (const SourceTensor& tensor : tensors)
    if (trains(spec, tensor.name) && !is_weight_scale(tensor.name)) deal(tensor.name, tensor.shape);
  if (spec.teacher && stage == ZeroStage::weights)
    for (const SourceTensor& tensor : expected_tensors(*spec.teacher))
      deal(kTeacherPrefix + tensor.name, tensor.shape);
  for (const auto& [path, quant] : spec.plan.linears)
    if (!rows_stand_alone(quant)) dealt.erase(master_of(path, spec));
  for (const auto& [path, quant] : spec.plan.linears) {
    const auto master = dealt.find(master_of(path, spec));
    if (quant.trained_scale && master != dealt.end())
      dealt.emplace(weight_scale_name(path),
                    with_cols(master->second, quant.weight->groups(master->second.cols())));
  }
  return dealt;
}

}  // namespace qat
