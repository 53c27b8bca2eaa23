// qat-bench: the speed of a training step on random tokens, as one JSON line.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/core/log.h"
#include "engine/train/sharded_store.h"
#include "kernels/random.h"
#include "models/dealing.h"
#include "models/decoder.h"
#include "models/graphs.h"
#include "recipes/run/all_reduce_bench.h"
#include "recipes/run/backend.h"
#include "recipes/run/command.h"
#include "recipes/run/training_setup.h"

namespace qat {
namespace {

struct BenchOptions {
  std::string shape = "smol135m", mode = "w8a8", recompute = "cheap", master = "fp32";
  std::string backend = "cpu";
  int64_t batch = 2, sequence = 512, micro_batch = 0, steps = 8, warmup = 2;
  int state_bits = 32, threads = 0, zero_stage = 0;
  bool kl = false, profile = false;
};

ModelConfig shape_named(const std::string& name) {
  ModelConfig c;
  c.tied_head = true;
  c.max_positions = 2048;
  if (name == "smol135m") {
    c.hidden = 576, c.ffn = 1536, c.layers = 30, c.heads = 9, c.kv_heads = 3, c.head_dim = 64;
    c.vocab = 49152;
  } else {
    c.hidden = 288, c.ffn = 768, c.layers = 6, c.heads = 6, c.kv_heads = 6, c.head_dim = 48;
    c.vocab = 32000;
  }
  return c;
}

QuantPlan plan_of(const ModelConfig& config, const std::string& mode) {
  QuantPlan plan;
  if (mode != "w8a8" && mode != "w4a8") return plan;
  recipe::Recipe recipe = recipe::parse_recipe(
      "model: model\nout: run\ndata: {train: [none]}\ntrain: {steps: 1}\nquantize: {preset: " +
          mode + "}\n",
      "bench");
  for (const std::string& path : decoder_linears(config))
    plan.linears[path] = {.weight = recipe.quantize.weights.spec(),
                          .activation = recipe.quantize.activations.spec()};
  return plan;
}

// The rows of one rank.
Batch random_batch(const ModelConfig& config, int64_t rows, int64_t sequence, uint64_t step,
                   const Communicator& ranks) {
  Batch batch;
  batch.rows = rows;
  batch.sequence = sequence;
  for (int64_t t = 0; t < rows * sequence; ++t) {
    const auto words = philox(1, step, uint64_t(ranks.rank() * rows * sequence + t));
    batch.ids.push_back(int32_t(words[0] % uint32_t(config.vocab)));
    batch.targets.push_back(int32_t(words[1] % uint32_t(config.vocab)));
    batch.positions.push_back(int32_t(t % sequence));
    batch.first.push_back(0);
  }
  batch.valid_targets = rows * sequence * ranks.size();
  return batch;
}

// Milliseconds a step that a rank spends in collectives, waiting for the others included.
double collective_ms(const std::vector<Program::OpTime>& times, int64_t steps) {
  double seconds = 0;
  for (const Program::OpTime& time : times)
    if (time.name == "all_reduce" || time.name == "all_gather" || time.name == "reduce_scatter")
      seconds += time.seconds;
  return seconds / double(steps) * 1e3;
}

Exit bench(const BenchOptions& options) {
  const auto ranks = open_communicator();
  if (options.batch % ranks->size() != 0)
    refuse("--batch: {} does not divide over {} ranks", options.batch, ranks->size());
  const ModelConfig config = shape_named(options.shape);
  const std::unique_ptr<Backend> backend =
      make_backend(options.backend == "cuda"   ? recipe::Backend::cuda
                   : options.backend == "auto" ? recipe::Backend::automatic
                                               : recipe::Backend::cpu,
                   options.threads);
  Stream& stream = backend->stream();
  const KernelTable& kernels = backend->kernels();
  Store store(backend.get());
  const DType master = options.master == "fp32" ? DType::f32 : DType::bf16;
  initialize_parameters(config, store, 0.02f, 1, master);
  fill_rope_table(config, store, "");

  TrainingSpec spec;
  spec.config = config;
  spec.build.batch = options.micro_batch > 0 ? options.micro_batch : options.batch / ranks->size();
  spec.build.sequence = options.sequence;
  spec.build.dtype = options.mode == "fp32" ? DType::f32 : DType::bf16;
  spec.build.weight_dtype = master;
  spec.teacher_weights = spec.build.dtype;
  spec.plan = plan_of(config, options.mode);
  spec.groups = group_scales_of(kernels);
  spec.recompute = options.recompute == "off"     ? Recompute::off
                   : options.recompute == "block" ? Recompute::block
                                                  : Recompute::cheap;
  for (const SourceTensor& t : expected_tensors(config)) spec.trained.push_back(t.name);
  if (options.kl) {
    spec.teacher = config;
    fill_rope_table(config, store, kTeacherPrefix);
    spec.loss = {.cross_entropy = 0.0f, .kl = 1.0f};
    for (const SourceTensor& t : expected_tensors(config)) {
      const DType dtype = t.shape.rank() < 2 ? DType::f32 : spec.teacher_weights;
      const View from = store.get(t.name);
      const View to = store.make(kTeacherPrefix + t.name, t.shape, dtype, Category::teacher);
      if (dtype == from.dtype)
        std::memcpy(to.data, from.data, from.bytes());
      else
        kernels.cast.run({from, to}, stream);
    }
  }
  stream.wait();
  spec.sharding = {ranks.get(), ZeroStage(options.zero_stage), {}};
  spec.sharding.partitions =
      deal_parameters(spec, expected_tensors(config), spec.sharding.stage, ranks->size());
  keep_own_rows(spec.sharding, store);
  TrainerSettings settings;
  settings.batch = options.batch;
  settings.sharding = spec.sharding;
  settings.micro_batch = spec.build.batch;
  settings.sequence = options.sequence;
  settings.optimizer.state_bits = options.state_bits;
  uint64_t step = 0;
  Trainer trainer(
      settings, store, kernels, stream, spec.trained,
      [&](int64_t rows) {
        return random_batch(config, rows / ranks->size(), options.sequence, step++, *ranks);
      },
      [&](const EnabledLayers& layers) { return build_training_graph(spec, layers); },
      [&](int64_t) { return all_layers(config); }, [](int64_t) { return 1e-5; });
  std::vector<double> seconds, optimizer_seconds;
  std::vector<Program::OpTime> times;
  for (int64_t i = 0; i < options.warmup + options.steps; ++i) {
    if (i == options.warmup && (options.profile || ranks->size() > 1)) trainer.profile_into(&times);
    const StepResult result = trainer.step();
    if (i < options.warmup) continue;
    seconds.push_back(result.seconds);
    optimizer_seconds.push_back(result.optimizer_seconds);
  }
  std::sort(seconds.begin(), seconds.end());
  std::sort(optimizer_seconds.begin(), optimizer_seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double flops = flops_per_token(config, spec.teacher, options.sequence) *
                       double(options.batch * options.sequence) / median;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  nlohmann::ordered_json line = {
      {"shape", options.shape},
      {"mode", options.mode},
      {"batch", options.batch},
      {"sequence", options.sequence},
      {"kl", options.kl},
      {"state_bits", options.state_bits},
      {"master", options.master},
      {"recompute", options.recompute},
      {"threads", stream.threads()},
      {"isa", cpu_isa()},
      {"backend", backend->name()},
      {"device", backend->description()},
      {"tokens_per_s", double(options.batch * options.sequence) / median},
      {"step_ms", median * 1e3},
      {"step_ms_best", seconds.front() * 1e3},
      {"optimizer_ms", optimizer_seconds[optimizer_seconds.size() / 2] * 1e3},
      {"peak_memory_bytes", usage.ru_maxrss * int64_t{1024}},
      {"gflops", flops / 1e9},
      {"peak_gflops", measured_peak(spec.build.dtype, *backend) / 1e9}};
  if (ranks->size() > 1) {
    line["ranks"] = ranks->size();
    line["zero_stage"] = options.zero_stage;
    line["collective_ms"] = collective_ms(times, options.steps);
  }
  ranks->barrier();
  if (ranks->rank() > 0) return Exit::ok;
  std::printf("%s\n", line.dump().c_str());
  if (!options.profile) return Exit::ok;
  std::sort(times.begin(), times.end(),
            [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  for (const Program::OpTime& t : times)
    std::fprintf(stderr, "%9.2f ms a step  %5ld calls  %s\n",
                 t.seconds * 1e3 / double(options.steps), long(t.calls / options.steps),
                 t.name.c_str());
  return Exit::ok;
}

}  // namespace
}  // namespace qat

int main(int argc, char** argv) {
  CLI::App app{"Measures training steps on random tokens and prints one JSON line.", "qat-bench"};
  qat::BenchOptions options;
  app.add_option("--shape", options.shape)->check(CLI::IsMember({"smol135m", "tiny15m"}));
  app.add_option("--batch", options.batch, "sequences a step")->check(CLI::PositiveNumber);
  app.add_option("--micro-batch", options.micro_batch, "sequences at a time (default: all)");
  app.add_option("--sequence", options.sequence, "tokens a sequence")->check(CLI::PositiveNumber);
  app.add_option("--mode", options.mode)->check(CLI::IsMember({"bf16", "fp32", "w8a8", "w4a8"}));
  app.add_flag("--kl", options.kl, "distil from a teacher of the same shape");
  app.add_option("--state-bits", options.state_bits, "of the AdamW moments")
      ->check(CLI::IsMember({8, 32}));
  app.add_option("--master", options.master, "weights that are updated (bf16: rounded at random)")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--recompute", options.recompute)->check(CLI::IsMember({"off", "cheap", "block"}));
  app.add_option("--steps", options.steps, "timed steps; the median counts")
      ->check(CLI::PositiveNumber);
  app.add_option("--warmup", options.warmup, "steps before");
  app.add_option("--threads", options.threads, "0: all");
  app.add_option("--zero-stage", options.zero_stage, "among several ranks, started by mpirun")
      ->check(CLI::Range(0, 3));
  app.add_option("--backend", options.backend)->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_flag("--profile", options.profile, "also print the time by operation on stderr");
  std::vector<int64_t> all_reduce;
  app.add_option(
         "--all-reduce", all_reduce,
         "instead of a step, under mpirun: the speed of sums over the ranks, of so many MiB")
      ->check(CLI::PositiveNumber)
      ->type_name("MIB");
  return qat::run_command(app, argc, argv, [&] {
    if (all_reduce.empty()) return qat::bench(options);
    qat::bench_all_reduce(*qat::open_communicator(), all_reduce);
    return qat::Exit::ok;
  });
}
