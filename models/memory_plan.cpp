#include "models/memory_plan.h"

#include <fmt/format.h>

#include <set>

#include "engine/ops/ops.h"
#include "models/adapter.h"

namespace qat {

namespace {

size_t bytes_of(const std::vector<SourceTensor>& tensors, DType matrices) {
  size_t bytes = 0;
  for (const SourceTensor& t : tensors)
    bytes += size_t(t.shape.count()) * size_of(t.shape.rank() < 2 ? DType::f32 : matrices);
  return bytes;
}

// Elements of a trained parameter that this rank holds where they are split.
int64_t own_elements(const Sharding& sharding, const SourceTensor& t) {
  const Partition* rows = sharding.splits_masters() ? sharding.partition(t.name) : nullptr;
  return rows ? sharding.own(*rows).count() * rows->cols() : t.shape.count();
}

std::vector<SourceTensor> own_parts(const Sharding& sharding,
                                    const std::vector<SourceTensor>& tensors) {
  std::vector<SourceTensor> parts = tensors;
  for (SourceTensor& t : parts)
    if (const int64_t own = own_elements(sharding, t); own != t.shape.count())
      t.shape = with_rows(t.shape, own / t.shape[1]);
  return parts;
}

// Parameters that the spec trains, scales of codes included.
std::vector<SourceTensor> trained_of(const TrainingSpec& spec,
                                     const std::vector<SourceTensor>& parameters) {
  const std::set<std::string> names(spec.trained.begin(), spec.trained.end());
  std::vector<SourceTensor> trained;
  for (const SourceTensor& t : parameters)
    if (names.contains(t.name)) trained.push_back(t);
  for (const auto& [path, quant] : spec.plan.linears)
    if (quant.trained_stored_scale)
      trained.push_back(
          {codes_scale_name(path), scale_shape(linear_shape(spec.config, path), *quant.weight)});
  return trained;
}

// Codes, scales and zero points that lie in the Store.
size_t codes_bytes(const TrainingSpec& spec) {
  size_t bytes = 0;
  for (const auto& [path, quant] : spec.plan.linears) {
    if (!quant.stored_weight && !quant.stored_grid) continue;
    const Shape w = linear_shape(spec.config, path);
    if (quant.stored_weight) bytes += size_t(w.count());
    const int64_t numbers = quant.weight->symmetric() ? 1 : 2;
    bytes += size_t(scale_shape(w, *quant.weight).count() * numbers) * sizeof(float);
  }
  return bytes;
}

EnabledLayers first_layers(int64_t count) {
  EnabledLayers layers;
  for (int64_t i = 0; i < count; ++i) layers.insert(int(i));
  return layers;
}

}  // namespace

size_t TrainingMemory::total() const {
  size_t sum = snapshot;
  for (const auto& [category, size] : bytes) sum += size;
  return sum;
}

size_t planned_snapshot(const TrainingSpec& spec, const TrainerSettings& settings) {
  const bool adapted = !spec.adapters.linears.empty();
  const std::vector<SourceTensor> parameters =
      adapted ? adapter_tensors(spec.adapters, spec.config) : expected_tensors(spec.config);
  const DType masters = adapted ? spec.adapters.dtype : spec.build.weight_dtype;
  const Sharding& sharding = spec.sharding;
  const auto own = [&](const SourceTensor& t) {
    if (const Partition* rows = sharding.shared() ? sharding.partition(t.name) : nullptr)
      return sharding.own(*rows).count() * rows->cols();
    return sharding.rank() == 0 ? t.shape.count() : 0;
  };
  size_t bytes = sharding.rank() == 0 ? codes_bytes(spec) : 0;
  for (const SourceTensor& t : parameters)
    bytes += size_t(own(t)) * size_of(t.shape.rank() < 2 ? DType::f32 : masters);
  for (const SourceTensor& t : scale_tensors(spec.plan, spec.config))
    bytes += size_t(own(t)) * 3 * sizeof(float);  // the scale and its moments
  for (const SourceTensor& t : trained_of(spec, parameters))
    bytes += Optimizer::moment_bytes(own(t), t.shape.count(), settings.optimizer.state_bits);
  return bytes;
}

TrainingMemory plan_training_memory(const TrainingSpec& spec, const TrainerSettings& settings,
                                    const KernelTable& kernels) {
  TrainingMemory memory;
  const bool adapted = !spec.adapters.linears.empty();
  const std::vector<SourceTensor> parameters =
      adapted ? adapter_tensors(spec.adapters, spec.config) : expected_tensors(spec.config);
  const DType masters = adapted ? spec.adapters.dtype : spec.build.weight_dtype;
  const Sharding& sharding = spec.sharding;
  memory.bytes[Category::masters] = bytes_of(own_parts(sharding, parameters), masters);
  if (adapted)
    memory.bytes[Category::base] = base_bytes(spec.adapters, spec.config, spec.build.weight_dtype);
  if (spec.teacher) {
    std::vector<SourceTensor> teacher = expected_tensors(*spec.teacher);
    for (SourceTensor& t : teacher) t.name = kTeacherPrefix + t.name;
    memory.bytes[Category::teacher] = bytes_of(own_parts(sharding, teacher), spec.teacher_weights);
  }
  for (const SourceTensor& t : trained_of(spec, parameters)) {
    const int64_t own = own_elements(sharding, t);
    const bool whole = sharding.stage < ZeroStage::gradients;
    memory.bytes[Category::gradients] += size_t(whole ? t.shape.count() : own) * sizeof(float);
    memory.bytes[Category::moments] +=
        Optimizer::moment_bytes(own, t.shape.count(), settings.optimizer.state_bits);
  }
  // The gradients of trained scales lie in the arena.
  const size_t scales =
      bytes_of(own_parts(sharding, scale_tensors(spec.plan, spec.config)), DType::f32);
  memory.bytes[Category::masters] += scales;
  memory.bytes[Category::moments] += 2 * scales;
  memory.bytes[Category::state] =
      size_t(spec.config.max_positions * spec.config.head_dim) * sizeof(float) + codes_bytes(spec);
  memory.bytes[Category::inputs] = size_t(spec.build.tokens()) * 4 * sizeof(int32_t) + 4 + 16;
  for (const int64_t enabled : {int64_t{0}, spec.config.layers / 2, spec.config.layers}) {
    const TrainingGraph training = build_training_graph(spec, first_layers(enabled));
    std::vector<Id> results = {training.sums};
    for (const ParameterGradient& g : training.gradients) results.push_back(g.gradient);
    const MemoryPlan plan = Program::plan(training.graph, results, kernels);
    if (plan.arena_bytes <= memory.bytes[Category::arena]) continue;
    memory.bytes[Category::arena] = plan.arena_bytes;
    memory.arena_live_peak = plan.live_peak_bytes;
    memory.prologue = plan.prologue_bytes;
  }
  return memory;
}

std::vector<std::string> memory_report(const TrainingMemory& memory, int ranks) {
  std::vector<std::string> lines;
  const auto mib = [](size_t bytes) { return double(bytes) / 1048576.0; };
  std::string text =
      fmt::format("memory{}: {:.0f} MiB =", ranks > 1 ? " of each rank" : "", mib(memory.total()));
  const char* separator = " ";
  for (const auto& [category, bytes] : memory.bytes) {
    if (mib(bytes) < 0.05) continue;
    text += fmt::format("{}{} {:.1f}", separator, name_of(category), mib(bytes));
    separator = " + ";
  }
  if (mib(memory.snapshot) >= 0.05)
    text += fmt::format("{}checkpoint snapshot {:.1f}", separator, mib(memory.snapshot));
  lines.push_back(text);
  lines.push_back(
      fmt::format("  the arena holds {:.1f} MiB of weights as the matmuls read them and "
                  "{:.1f} MiB of activations and scratch (live peak {:.1f})",
                  mib(memory.prologue), mib(memory.bytes.at(Category::arena) - memory.prologue),
                  mib(memory.arena_live_peak)));
  return lines;
}

}  // namespace qat
