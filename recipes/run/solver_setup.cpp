#include "recipes/run/solver_setup.h"

#include <algorithm>
#include <set>

#include "engine/core/error.h"
#include "engine/ops/ops.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/recipe/words.h"
#include "recipes/run/training_setup.h"

namespace qat {

namespace {

constexpr const char* kScales = "scales";

std::string module_of(const std::string& parameter) {
  return parameter.substr(0, parameter.rfind('.'));
}

bool names(const std::string& pattern, const std::string& parameter, const ModelConfig& config) {
  const std::string module = module_of(parameter);
  if (pattern == "norms") return module.ends_with("norm");
  if (pattern == "embeddings") return module == kEmbeddingPath;
  if (pattern == "head") return module == (config.tied_head ? kEmbeddingPath : kHeadPath);
  return matches(pattern, module);
}

bool orders_groups(const recipe::QuantizeOptions& quantize) {
  return quantize.solver.kind == recipe::SolverKind::gptq &&
         quantize.solver.actorder == recipe::ActOrder::group;
}

bool trains_scales(const recipe::Recipe& recipe) {
  const std::vector<std::string>& trainable = recipe.train.trainable;
  return std::find(trainable.begin(), trainable.end(), kScales) != trainable.end();
}

// Parameters of the model itself that train.trainable names.
std::vector<std::string> named_parameters(const recipe::Recipe& recipe, const ModelConfig& config) {
  std::set<std::string> wanted;
  for (const std::string& pattern : recipe.train.trainable) {
    if (pattern == kScales) continue;
    const size_t before = wanted.size();
    bool any = false;
    for (const SourceTensor& tensor : expected_tensors(config))
      if (names(pattern, tensor.name, config)) {
        wanted.insert(tensor.name);
        any = true;
      }
    if (!any && before == wanted.size())
      refuse(
          "train.trainable: '{}' matches no parameter of the model; write norms, head, embeddings "
          "or scales, or name modules by the end of their path (q_proj, mlp.down_proj) or by a "
          "glob (model.layers.0.*)",
          pattern);
  }
  std::vector<std::string> in_order;
  for (const SourceTensor& tensor : expected_tensors(config))
    if (wanted.contains(tensor.name)) in_order.push_back(tensor.name);
  return in_order;
}

}  // namespace

SolveOptions solve_options(const recipe::QuantizeOptions& quantize) {
  SolveOptions options;
  if (!quantize.solved()) return options;
  const recipe::SolverOptions& solver = quantize.solver;
  switch (solver.kind) {
    case recipe::SolverKind::rtn:
      break;
    case recipe::SolverKind::gptq:
      options.solver = Solver::gptq;
      break;
    case recipe::SolverKind::awq:
      options.solver = Solver::awq;
      break;
  }
  options.gptq.dampening_frac = solver.dampening_frac;
  options.gptq.block_size = solver.block_size;
  switch (solver.actorder) {
    case recipe::ActOrder::none:
      break;
    case recipe::ActOrder::fixed:
      options.gptq.order = ActOrder::fixed_groups;
      break;
    case recipe::ActOrder::group:
      options.gptq.order = ActOrder::groups;
      break;
  }
  options.awq = {.n_grid = solver.n_grid, .duo_scaling = solver.duo_scaling, .clip = solver.clip};
  return options;
}

std::vector<std::string> trained_parameters(const recipe::Recipe& recipe,
                                            const AdapterPlan& adapters, const QuantPlan& plan,
                                            const ModelConfig& config) {
  std::vector<std::string> trained;
  if (!adapters.linears.empty() || recipe.train.trainable.empty()) {
    for (const SourceTensor& tensor : trained_tensors(adapters, config, plan))
      trained.push_back(tensor.name);
    return trained;
  }
  trained = named_parameters(recipe, config);
  for (const auto& [path, quant] : plan.linears)
    if (quant.trained_stored_scale) trained.push_back(codes_scale_name(path));
  return trained;
}

void mark_solved(const recipe::Recipe& recipe, const AdapterPlan& adapters,
                 const ModelConfig& config, QuantPlan& plan) {
  if (!recipe.quantize.solved()) return;
  std::set<std::string> trained;
  if (recipe.train.steps > 0)
    for (const std::string& name : trained_parameters(recipe, adapters, plan, config))
      trained.insert(name);
  for (auto& [path, quant] : plan.linears) {
    if (!quant.weight || is_table(path)) continue;
    quant.stored_grid = trained.contains(path + ".weight") || trained.contains(lora_a_name(path));
    quant.stored_weight = !quant.stored_grid;
    quant.listed_groups = orders_groups(recipe.quantize) && quant.weight->per == Per::group;
    if (quant.listed_groups && quant.stored_grid)
      refuse(
          "quantize.solver.actorder: group, but {} is trained, and trained grids have groups that "
          "are runs of columns; take static, or leave it out of train.trainable",
          path);
    quant.trained_stored_scale =
        quant.stored_weight && recipe.train.steps > 0 && trains_scales(recipe);
  }
}

void forget_codes_of_trained(const QuantPlan& plan, Store& store) {
  for (const auto& [path, quant] : plan.linears)
    if (quant.stored_grid) store.erase(codes_name(path));
}

std::vector<std::string> solver_lines(const recipe::Recipe& recipe, const QuantPlan& plan,
                                      const ModelConfig& config, const KernelTable& kernels) {
  std::vector<std::string> lines;
  const auto mib = [](size_t bytes) { return double(bytes) / 1048576.0; };
  if (recipe.quantize.solved() && planned_linears(plan) > 0) {
    DecoderBuild build;
    build.batch = std::min<int64_t>(recipe.quantize.calibrate.samples, kCalibrationRows);
    build.sequence = recipe.data.sequence;
    build.dtype = recipe.dtype;
    build.weight_dtype = master_dtype(recipe);
    const SolveMemory memory = plan_solve_memory(config, plan, solve_options(recipe.quantize),
                                                 build, recipe.quantize.calibrate.samples, kernels);
    lines.push_back(fmt::format(
        "solver: {}, layer by layer on {} sequences of {} tokens; beside the model {:.0f} MiB = "
        "hidden states {:.1f} + moments of inputs {:.1f} + arena {:.1f}",
        recipe::word_of(recipe.quantize.solver.kind), recipe.quantize.calibrate.samples,
        recipe.data.sequence, mib(memory.total()), mib(memory.hidden_states), mib(memory.moments),
        mib(memory.arena)));
  }
  if (recipe.train.trainable.empty() || recipe.train.steps == 0) return lines;
  int64_t matrices = 0, vectors = 0, scales = 0, elements = 0;
  for (const std::string& name : named_parameters(recipe, config))
    for (const SourceTensor& tensor : expected_tensors(config)) {
      if (tensor.name != name) continue;
      ++(tensor.shape.rank() > 1 ? matrices : vectors);
      elements += tensor.shape.count();
    }
  for (const auto& [path, quant] : plan.linears) {
    if (!quant.trained_stored_scale) continue;
    ++scales;
    elements += scale_shape(linear_shape(config, path), *quant.weight).count();
  }
  lines.push_back(fmt::format(
      "trained: {} matrices, {} vectors and the scales of {} matrices, {:.2f}M of {:.1f}M "
      "parameters; the rest is frozen",
      matrices, vectors, scales, double(elements) / 1e6, double(config.parameters()) / 1e6));
  return lines;
}

}  // namespace qat
