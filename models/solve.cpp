#include "models/solve.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "models/decoder.h"
#include "models/layer_stream.h"
#include "models/smooth.h"

namespace qat {

namespace {

std::string layer_name(int64_t layer) {
  return fmt::format("model.layers.{}.", layer);
}

// The linears of a layer by the value they read, in forward order.
std::vector<std::vector<std::string>> inputs_of_layer(int64_t layer) {
  const std::string attention = layer_name(layer) + "self_attn.", mlp = layer_name(layer) + "mlp.";
  return {{attention + "q_proj", attention + "k_proj", attention + "v_proj"},
          {attention + "o_proj"},
          {mlp + "gate_proj", mlp + "up_proj"},
          {mlp + "down_proj"}};
}

bool has_grid(const QuantPlan& plan, const std::string& path) {
  const auto found = plan.linears.find(path);
  return found != plan.linears.end() && found->second.weight.has_value();
}

std::vector<float> master_of(const std::string& path, const MeasuredModel& model) {
  const View master = model.store.get(path + ".weight");
  std::vector<float> values(size_t(master.count()));
  const View out{reinterpret_cast<std::byte*>(values.data()), master.shape, DType::f32};
  model.kernels.cast.run({master, out}, model.stream);
  return values;
}

void put_master_on_codes(const std::string& path, const QuantSpec& spec, Store& store,
                         const KernelTable& kernels, Stream& stream) {
  Dequantize args;
  args.codes = store.get(codes_name(path));
  args.scale = store.get(codes_scale_name(path));
  if (!spec.symmetric()) args.zero = store.get(codes_zero_name(path));
  args.y = store.get(path + ".weight");
  args.spec = spec;
  if (const View groups = store.find(codes_group_name(path))) args.group_K = groups;
  kernels.dequantize.run(args, stream);
}

template <class T>
void put(Store& store, const std::string& name, const Shape& shape, DType dtype,
         const std::vector<T>& values) {
  const View view = store.make(name, shape, dtype, Category::state);
  std::copy(values.begin(), values.end(), view.as<T>());
}

// Where training goes on from; bf16 may round a number into the next cell, which its code leaves.
void put_master_beside_codes(const std::string& path, const SolvedMatrix& solved, Store& store) {
  const View master = store.get(path + ".weight");
  for (int64_t row = 0; row < solved.rows; ++row)
    for (int64_t column = 0; column < solved.columns; ++column) {
      const int64_t i = row * solved.columns + column;
      const float value = solved.unrounded[size_t(i)];
      if (master.dtype == DType::f32) {
        master.as<float>()[i] = value;
        continue;
      }
      const BFloat16 rounded = to_bfloat16(value);
      const Grid grid = solved.grid(solved.grid_index(row, column));
      const bool same =
          nearest_code(to_float(rounded), solved.spec, grid) == solved.codes[size_t(i)];
      master.as<BFloat16>()[i] = same ? rounded : to_bfloat16(solved.value(row, column));
    }
}

enum class Master {
  on_codes,      ///< frozen
  beside_codes,  ///< trained
};

void store_solved(const std::string& path, const SolvedMatrix& solved, const MeasuredModel& model,
                  Master master) {
  Store& store = model.store;
  const Shape grids =
      solved.spec.per == Per::tensor ? Shape{1} : Shape{solved.rows, solved.groups()};
  put(store, codes_name(path), {solved.rows, solved.columns}, DType::i8, solved.codes);
  put(store, codes_scale_name(path), grids, DType::f32, solved.scales);
  if (!solved.spec.symmetric())
    put(store, codes_zero_name(path), grids, DType::f32, solved.seconds);
  if (!solved.group_of.empty())
    put(store, codes_group_name(path), {solved.columns}, DType::i32, solved.group_of);
  if (master == Master::beside_codes)
    put_master_beside_codes(path, solved, store);
  else
    put_master_on_codes(path, solved.spec, store, model.kernels, model.stream);
}

class LayerSolver {
 public:
  LayerSolver(const MeasuredModel& model, const QuantPlan& plan, const SolveOptions& options,
              LayerStream& stream)
      : model_(model), plan_(plan), options_(options), stream_(stream) {
    for (auto& [path, quant] : plan_.linears) {
      if (quant.stored_grid) trained_.insert(path);
      quant.forget_found_weight();
      if (!is_table(path)) quant.weight.reset();
    }
    wanted_ = plan;
  }

  std::vector<SolvedLinear> run() {
    result_.clear();
    if (options_.solver == Solver::gptq)
      run_gptq();
    else
      run_awq();
    stream_.advance(plan_);
    return std::move(result_);
  }

 private:
  QuantSpec spec_of(const std::string& path) const { return *wanted_.linears.at(path).weight; }

  // From now on the layer multiplies these codes.
  void keep(const std::string& path, const SolvedMatrix& solved) {
    // An adapter's base is frozen, whatever is trained on top of it.
    const bool frozen = model_.adapters && !model_.adapters->empty();
    const bool trained = trained_.contains(path) && !frozen;
    store_solved(path, solved, model_, trained ? Master::beside_codes : Master::on_codes);
    LinearQuant& quant = plan_.linears.at(path);
    quant.weight = solved.spec;
    quant.stored_weight = true;
    quant.listed_groups = !solved.group_of.empty();
    result_.push_back({path, solved.relative_error});
  }

  // What the first of each list reads, by its path.
  std::map<std::string, Gram> observe(const std::vector<std::vector<std::string>>& inputs) {
    std::map<std::string, Gram> grams;
    std::vector<std::string> paths;
    for (const auto& linears : inputs) {
      paths.push_back(linears[0]);
      grams.emplace(linears[0], Gram(linear_shape(model_.config, linears[0]).cols()));
    }
    stream_.observe(plan_, paths, [&](const std::string& path, const View& x, int64_t rows) {
      grams.at(path).add(x, rows, model_.kernels, model_.stream);
    });
    return grams;
  }

  void run_gptq() {
    for (const auto& linears : inputs_of_layer(stream_.layer())) {
      std::vector<std::string> planned;
      for (const std::string& path : linears)
        if (has_grid(wanted_, path)) planned.push_back(path);
      if (planned.empty()) continue;
      const auto grams = observe({planned});
      for (const std::string& path : planned) {
        const std::vector<float> w = master_of(path, model_);
        const int64_t rows = linear_shape(model_.config, path).rows();
        keep(path, gptq(w.data(), rows, grams.begin()->second, spec_of(path), options_.gptq, path,
                        model_.kernels, model_.stream));
      }
    }
  }

  void run_awq() {
    const int64_t layer = stream_.layer();
    std::vector<std::vector<std::string>> inputs;
    for (auto& linears : inputs_of_layer(layer))
      if (std::any_of(linears.begin(), linears.end(),
                      [&](const std::string& path) { return has_grid(wanted_, path); }))
        inputs.push_back(std::move(linears));
    if (inputs.empty()) return;
    std::map<std::string, Gram> grams = observe(inputs);
    // Those of v_proj and up_proj come first: what the columns behind the norms hold is known only
    // after them.
    for (const SmoothPair& pair : smooth_pairs(model_.config, every_fold()))
      if (pair.linears[0].starts_with(layer_name(layer)))
        if (const auto gram = grams.find(pair.linears[0]); gram != grams.end())
          scale_pair(pair, gram->second);
    for (const auto& linears : inputs)
      for (const std::string& path : linears)
        if (has_grid(wanted_, path)) round_linear(path, grams.at(linears[0]));
  }

  void scale_pair(const SmoothPair& pair, Gram& gram) {
    gram.check(pair.linears[0]);
    std::vector<AwqLinear> linears;
    for (const std::string& path : pair.linears) {
      AwqLinear linear;
      linear.w_OK = master_of(path, model_);
      linear.rows = linear_shape(model_.config, path).rows();
      if (has_grid(wanted_, path)) linear.spec = spec_of(path);
      linears.push_back(std::move(linear));
    }
    const AwqScales scales =
        search_scales(linears, gram, options_.awq, shared_factors(pair, model_.config),
                      model_.kernels, model_.stream);
    log::debug("awq: {} ratio {:.2f}, output error {:.3e} -> {:.3e}", pair.from, scales.ratio,
               scales.error_before, scales.error_after);
    fold(pair, scales.factors, model_.config, model_.store);
    gram.divide_columns(scales.factors);
  }

  void round_linear(const std::string& path, const Gram& gram) {
    const std::vector<float> w = master_of(path, model_);
    const Shape shape = linear_shape(model_.config, path);
    // As llm-awq: what q and k lose is seen only in their product, so their ranges stay.
    const bool clips = options_.awq.clip && !path.ends_with("q_proj") && !path.ends_with("k_proj");
    SolvedMatrix solved = clips ? round_clipped(w.data(), shape.rows(), gram, spec_of(path),
                                                model_.kernels, model_.stream)
                                : round_to_nearest(w.data(), shape.rows(), shape.cols(),
                                                   spec_of(path), model_.kernels, model_.stream);
    solved.unrounded.resize(w.size());
    for (int64_t row = 0; row < solved.rows; ++row)
      for (int64_t k = 0; k < solved.columns; ++k) {
        const size_t i = size_t(row * solved.columns + k);
        solved.unrounded[i] =
            within_cell(w[i], solved.codes[i], solved.spec, solved.grid(solved.grid_index(row, k)));
      }
    OutputSquares squares({gram.sums().begin(), gram.sums().end()}, shape.cols(), model_.kernels,
                          model_.stream);
    solved.relative_error = squares.relative_error(w, solved.values());
    keep(path, solved);
  }

  const MeasuredModel& model_;
  QuantPlan plan_;                 ///< what the layer is quantized with so far
  QuantPlan wanted_;               ///< what it will be
  std::set<std::string> trained_;  ///< linears whose masters are
  const SolveOptions& options_;
  LayerStream& stream_;
  std::vector<SolvedLinear> result_;
};

}  // namespace

const char* name_of(Solver solver) {
  switch (solver) {
    case Solver::round_to_nearest:
      return "rtn";
    case Solver::gptq:
      return "gptq";
    case Solver::awq:
      return "awq";
  }
  return "?";
}

std::vector<SolvedLinear> solve(const MeasuredModel& model, const QuantPlan& plan,
                                const std::vector<Batch>& batches, const SolveOptions& options,
                                const std::function<bool()>& stop) {
  std::vector<SolvedLinear> result;
  if (options.solver == Solver::round_to_nearest) return result;
  const auto start = std::chrono::steady_clock::now();
  LayerStream stream(model, batches, plan);
  LayerSolver solver(model, plan, options, stream);
  for (int64_t layer = 0; layer < model.config.layers; ++layer) {
    if (stop && stop()) return result;
    const std::vector<SolvedLinear> solved = solver.run();
    if (solved.empty()) continue;
    double error = 0.0;
    for (const SolvedLinear& linear : solved) error += linear.relative_error;
    log::info("{}: layer {}/{}, output error {:.2e} of its square, {:.0f} s",
              name_of(options.solver), layer + 1, model.config.layers,
              error / double(solved.size()),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    result.insert(result.end(), solved.begin(), solved.end());
  }
  return result;
}

void put_masters_on_codes(const QuantPlan& plan, Store& store, const KernelTable& kernels,
                          Stream& stream) {
  for (const auto& [path, quant] : plan.linears)
    if (quant.weight && store.find(codes_name(path)) && store.find(path + ".weight"))
      put_master_on_codes(path, *quant.weight, store, kernels, stream);
}

SolveMemory plan_solve_memory(const ModelConfig& config, const QuantPlan& plan,
                              const SolveOptions& options, const DecoderBuild& build,
                              int64_t sequences, const KernelTable& kernels) {
  SolveMemory memory;
  const int64_t held = (sequences + build.batch - 1) / build.batch * build.batch;
  memory.hidden_states = LayerStream::state_bytes(config, held, build.sequence, build.dtype);
  memory.arena = LayerStream::arena_bytes(config, plan, build, kernels);
  for (const auto& linears : inputs_of_layer(0)) {
    const Shape w = linear_shape(config, linears[0]);
    const size_t square = size_t(w.cols() * w.cols()) * sizeof(double);
    if (options.solver == Solver::awq) {
      memory.moments += Gram::bytes(w.cols());
      continue;
    }
    // The Hessian, its reversed copy, two factors, and the matrix with its errors in double.
    const size_t solving = Gram::bytes(w.cols()) + 4 * square +
                           size_t(w.rows() * w.cols()) * (sizeof(double) + 3 * sizeof(float));
    memory.moments = std::max(memory.moments, solving);
  }
  return memory;
}

}  // namespace qat
