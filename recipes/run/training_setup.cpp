#include "recipes/run/training_setup.h"

#include <chrono>
#include <map>
#include <string_view>

#include "engine/core/error.h"
#include "models/adapter.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/solver_setup.h"

namespace qat {

QuantSchedule quant_schedule(const recipe::Recipe& recipe, const ModelConfig& config,
                             const QuantPlan& plan, const std::vector<int64_t>& sensitivity_order) {
  QuantScheduleOptions options;
  options.layers = config.layers;
  options.warmup_bf16 = plan.empty() ? recipe.train.steps : recipe.train.warmup_bf16;
  options.layers_per_stage = recipe.train.enable.layers;
  options.every = recipe.train.enable.every;
  switch (recipe.train.enable.order) {
    case recipe::EnableOrder::front_to_back:
      options.order = EnableOrder::front_to_back;
      break;
    case recipe::EnableOrder::back_to_front:
      options.order = EnableOrder::back_to_front;
      break;
    case recipe::EnableOrder::sensitivity:
      if (sensitivity_order.empty()) break;
      options.order = EnableOrder::listed;
      options.list = sensitivity_order;
      break;
  }
  return QuantSchedule(options);
}

Schedule learning_rate_schedule(const recipe::Recipe& recipe, const QuantSchedule& quant) {
  const recipe::TrainOptions& train = recipe.train;
  ScheduleOptions options;
  switch (train.schedule.kind) {
    case recipe::ScheduleKind::cosine:
      options.kind = ScheduleKind::cosine;
      break;
    case recipe::ScheduleKind::linear:
      options.kind = ScheduleKind::linear;
      break;
    case recipe::ScheduleKind::wsd:
      options.kind = ScheduleKind::wsd;
      break;
    case recipe::ScheduleKind::constant:
      options.kind = ScheduleKind::constant;
      break;
  }
  options.learning_rate = train.learning_rate;
  options.steps = std::max<int64_t>(train.steps, 1);
  options.warmup = train.schedule.warmup;
  options.final = train.schedule.final;
  options.decay = double(train.schedule.decay) / double(options.steps);
  if (train.enable.rewarm > 0) {
    options.rewarm = train.enable.rewarm;
    for (const int64_t step : quant.change_steps())
      if (step > 0 && step < train.steps) options.rewarm_at.push_back(step);
  }
  return Schedule(options);
}

std::vector<SourceTensor> trained_tensors(const AdapterPlan& adapters, const ModelConfig& config,
                                          const QuantPlan& plan) {
  if (!adapters.linears.empty()) return adapter_tensors(adapters, config);
  std::vector<SourceTensor> tensors = expected_tensors(config);
  for (SourceTensor& scale : scale_tensors(plan, config)) tensors.push_back(std::move(scale));
  return tensors;
}

DType master_dtype(const recipe::Recipe& recipe) {
  if (recipe.adapter.any())
    return recipe.adapter.base == recipe::BaseChoice::none ? DType::f32 : DType::bf16;
  return recipe.train.optimizer.master == recipe::MasterWeights::fp32 ? DType::f32 : DType::bf16;
}

TrainingSpec training_spec(const recipe::Recipe& recipe, const ModelConfig& config,
                           const std::optional<ModelConfig>& teacher, const QuantPlan& plan,
                           const AdapterPlan& adapters, const KernelTable& kernels) {
  TrainingSpec spec;
  spec.config = config;
  spec.teacher = teacher;
  spec.plan = plan;
  if (recipe.quantize.weights.rounding == recipe::Rounding::stochastic)
    spec.plan.rounding_seed = recipe.seed;
  spec.adapters = adapters;
  spec.build.batch = recipe.train.micro_batch > 0 ? recipe.train.micro_batch : recipe.train.batch;
  spec.build.sequence = recipe.data.sequence;
  spec.build.dtype = recipe.dtype;
  spec.build.weight_dtype = master_dtype(recipe);
  spec.teacher_weights = recipe.dtype;
  spec.loss = {.cross_entropy = float(recipe.distill.cross_entropy),
               .kl = float(teacher ? recipe.distill.kl : 0.0),
               .temperature = float(recipe.distill.temperature)};
  spec.trained = trained_parameters(recipe, adapters, plan, config);
  switch (recipe.train.recompute) {
    case recipe::RecomputePolicy::off:
      spec.recompute = Recompute::off;
      break;
    case recipe::RecomputePolicy::cheap:
      spec.recompute = Recompute::cheap;
      break;
    case recipe::RecomputePolicy::block:
      spec.recompute = Recompute::block;
      break;
  }
  spec.fuse = recipe.train.fuse ? Switch::on : Switch::off;
  spec.groups = group_scales_of(kernels);
  if (spec.build.sequence > config.max_positions)
    refuse("data.sequence: {} is longer than the model's max_position_embeddings, {}",
           spec.build.sequence, config.max_positions);
  return spec;
}

// Of trained scales in relation to the weights; a rate of 0 trains nothing.
static double scale_rate(const recipe::Recipe& recipe) {
  const double rate = recipe.train.learning_rate;
  return rate > 0.0 ? recipe.quantize.weights.scale_lr / rate : 0.0;
}

TrainerSettings trainer_settings(const recipe::Recipe& recipe, const TrainingSpec& spec) {
  TrainerSettings settings;
  settings.batch = recipe.train.batch;
  settings.sharding = spec.sharding;
  settings.micro_batch = spec.build.batch;
  settings.sequence = spec.build.sequence;
  settings.cross_entropy = spec.loss.cross_entropy;
  settings.kl = spec.loss.kl;
  settings.clip_grad_norm = recipe.train.clip_grad_norm;
  settings.max_bad_steps = recipe.train.max_bad_steps;
  settings.spike_z = recipe.train.spike_z;
  switch (recipe.train.on_spike) {
    case recipe::OnSpike::log:
      settings.on_spike = OnSpike::train;
      break;
    case recipe::OnSpike::skip:
      settings.on_spike = OnSpike::skip;
      break;
    case recipe::OnSpike::rollback:
      settings.on_spike = OnSpike::roll_back;
      break;
  }
  const recipe::OptimizerOptions& o = recipe.train.optimizer;
  settings.optimizer = {.beta1 = float(o.beta1),
                        .beta2 = float(o.beta2),
                        .eps = float(o.eps),
                        .weight_decay = float(o.weight_decay),
                        .state_bits = int(o.state_bits),
                        .scale_rate = scale_rate(recipe),
                        .seed = recipe.seed};
  return settings;
}

TokenizeOptions tokenize_options(const recipe::Recipe& recipe, const TextEncoder& encoder,
                                 std::function<ChatRenderer()> renderer) {
  TokenizeOptions options;
  options.encoder = encoder;
  options.read.renderer = std::move(renderer);
  switch (recipe.data.format) {
    case recipe::DataFormat::by_extension:
      options.read.format = DataFormat::automatic;
      break;
    case recipe::DataFormat::text:
      options.read.format = DataFormat::text;
      break;
    case recipe::DataFormat::prompt_completion:
      options.read.format = DataFormat::prompt_completion;
      break;
    case recipe::DataFormat::messages:
      options.read.format = DataFormat::messages;
      break;
  }
  options.read.fields.text = recipe.data.text_field;
  options.read.fields.prompt = recipe.data.prompt_field;
  options.read.fields.completion = recipe.data.completion_field;
  options.read.fields.messages = recipe.data.messages_field;
  options.read.fields.separator = recipe.data.separator;
  switch (recipe.data.cache.word) {
    case recipe::CacheKind::run:
      options.cache_directory = recipe.out + "/cache";
      break;
    case recipe::CacheKind::off:
      break;
    case recipe::CacheKind::path:
      options.cache_directory = recipe.data.cache.path;
      break;
  }
  return options;
}

DatasetOptions dataset_options(const recipe::Recipe& recipe, const ModelConfig& config) {
  DatasetOptions options;
  options.sequence = recipe.data.sequence;
  options.packing = recipe.data.packing ? Packing::on : Packing::off;
  options.order = recipe.data.shuffle ? Order::shuffled : Order::as_stored;
  options.seed = recipe.seed;
  options.pad_id = int32_t(std::max<int64_t>(config.pad_id, 0));
  return options;
}

PrepareOptions prepare_options(const recipe::Recipe& recipe) {
  PrepareOptions options;
  switch (recipe.quantize.smooth.alpha.mode) {
    case recipe::SmoothMode::off:
      options.smooth.mode = SmoothMode::off;
      break;
    case recipe::SmoothMode::fixed:
      options.smooth.mode = SmoothMode::fixed;
      break;
    case recipe::SmoothMode::search:
      options.smooth.mode = SmoothMode::search;
      break;
  }
  options.smooth.alpha = float(recipe.quantize.smooth.alpha.value);
  options.smooth.folds.clear();
  for (const recipe::SmoothFold fold : recipe.quantize.smooth.fold) {
    switch (fold) {
      case recipe::SmoothFold::norm:
        options.smooth.folds.push_back(SmoothFold::norm);
        break;
      case recipe::SmoothFold::up_proj:
        options.smooth.folds.push_back(SmoothFold::up_proj);
        break;
      case recipe::SmoothFold::v_proj:
        options.smooth.folds.push_back(SmoothFold::v_proj);
        break;
    }
  }
  switch (recipe.quantize.calibrate.range) {
    case recipe::CalibrationRange::min_max:
      options.range.rule = RangeRule::min_max;
      break;
    case recipe::CalibrationRange::percentile:
      options.range.rule = RangeRule::percentile;
      break;
    case recipe::CalibrationRange::mse:
      options.range.rule = RangeRule::mse;
      break;
  }
  options.range.percentile = recipe.quantize.calibrate.percentile;
  if (recipe.quantize.weights.scale_init == recipe::ScaleInit::lsq)
    options.scale_start = ScaleStart::lsq;
  options.solve = solve_options(recipe.quantize);
  if (recipe.train.enable.order == recipe::EnableOrder::sensitivity && recipe.train.steps > 0)
    options.sensitivity = MeasureSensitivity::yes;
  return options;
}

EnabledLayers layers_at(const QuantSchedule& schedule, int64_t step) {
  EnabledLayers layers;
  for (const int64_t layer : schedule.enabled_layers(step)) layers.insert(int(layer));
  return layers;
}

void start_scales_as_layers_join(const QuantPlan& plan, const QuantSchedule& schedule,
                                 ScaleStart start, Store& store, const KernelTable& kernels,
                                 Stream& stream, Trainer& trainer) {
  std::map<int64_t, int64_t> joins;  // layer -> step
  for (const int64_t step : schedule.change_steps())
    for (const int64_t layer : schedule.enabled_layers(step)) joins.try_emplace(layer, step);
  trainer.on_join(
      [&, start](const EnabledLayers& layers) {
        start_trained_scales(
            plan, start, [&](const std::string& path) { return layers.contains(layer_of(path)); },
            store, kernels, stream);
      },
      [joins](const std::string& parameter) {
        return is_weight_scale(parameter) ? joins.at(layer_of(parameter)) : int64_t{0};
      });
}

namespace {

double forward_flops(const ModelConfig& c, int64_t sequence) {
  const double body =
      double(c.layers) * (double(c.hidden) * double(2 * c.q_width() + 2 * c.kv_width()) +
                          3.0 * double(c.hidden) * double(c.ffn));
  const double head = double(c.vocab) * double(c.hidden);
  const double attention = 2.0 * double(c.layers) * double(c.q_width()) * double(sequence);
  return 2.0 * (body + head + attention);
}

}  // namespace

double flops_per_token(const ModelConfig& config, const std::optional<ModelConfig>& teacher,
                       int64_t sequence) {
  return 3.0 * forward_flops(config, sequence) +
         (teacher ? forward_flops(*teacher, sequence) : 0.0);
}

double measured_peak(DType dtype, Backend& backend) {
  const int64_t size = std::string_view(backend.name()) == "cpu" ? 2048 : 8192;
  Store store(&backend);
  const View a = store.make("a", {size, size}, dtype, Category::state);
  const View b = store.make("b", {size, size}, dtype, Category::state);
  const View c = store.make("c", {size, size}, dtype, Category::state);
  Stream& stream = backend.stream();
  double best = 1e30;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    backend.kernels().matmul.run({a, b, c, MatmulForm::nt, false}, stream);
    stream.wait();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return 2.0 * double(size) * double(size) * double(size) / best;
}

}  // namespace qat
