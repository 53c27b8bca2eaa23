#include "engine/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/quant/adapter_plan.h"
#include "engine/quant/quant_plan.h"

namespace qat {

namespace {
constexpr const char* kGradientNorm = "gradient_norm";
}  // namespace

Trainer::Trainer(const TrainerSettings& settings, Store& store, const KernelTable& kernels,
                 Stream& stream, const std::vector<std::string>& trained, NextBatch next_batch,
                 BuildGraph build, LayersAt layers_at, LearningRateAt learning_rate_at)
    : settings_(settings),
      store_(store),
      kernels_(kernels),
      stream_(stream),
      next_batch_(std::move(next_batch)),
      build_(std::move(build)),
      layers_at_(std::move(layers_at)),
      learning_rate_at_(std::move(learning_rate_at)),
      optimizer_(store, kernels, settings.optimizer, trained, settings.sharding) {}

int64_t Trainer::own_rows() const {
  return settings_.batch / settings_.sharding.size();
}

TrainerState Trainer::state() const {
  return {finished_, bad_steps_, skipped_, losses_.recent()};
}

void Trainer::resume_at(const TrainerState& state) {
  finished_ = state.finished_steps;
  bad_steps_ = state.bad_steps;
  skipped_ = state.skipped_steps;
  losses_.restore(state.recent_losses);
}

void Trainer::on_join(LayersJoin layers_join, JoinedAt joined_at) {
  layers_join_ = std::move(layers_join);
  joined_at_ = std::move(joined_at);
}

const Program& Trainer::program() {
  const EnabledLayers layers = layers_at_(finished_);
  if (!program_ || layers != compiled_for_) compile(layers);
  return *program_;
}

void Trainer::compile(const EnabledLayers& layers) {
  TrainingGraph training = build_(layers);
  program_.reset();
  sums_ = training.sums;
  gradients_ = training.gradients;
  std::vector<Id> results = {sums_};
  for (const ParameterGradient& g : gradients_) results.push_back(g.gradient);
  program_ =
      Program::compile(std::move(training.graph), results, store_, kernels_, settings_.compile);
  compiled_for_ = layers;
}

void Trainer::fill_inputs(const Batch& batch, int64_t first_row) {
  const size_t offset = size_t(first_row * batch.sequence);
  const size_t count = size_t(settings_.micro_batch * batch.sequence);
  const auto fill = [&](const char* name, const std::vector<int32_t>& from) {
    if (const View view = store_.find(name))
      std::memcpy(view.data, from.data() + offset, count * sizeof(int32_t));
  };
  fill("tokens", batch.ids);
  fill("targets", batch.targets);
  fill("positions", batch.positions);
  fill("first", batch.first);
  if (const View position = store_.find(kDropoutPosition)) {
    position.as<int64_t>()[0] = finished_;
    position.as<int64_t>()[1] =
        (settings_.sharding.rank() * own_rows() + first_row) * batch.sequence;
  }
}

// The watch sees every finite loss, skipped ones too: a loss that stays high is soon no spike.
bool Trainer::is_spike(StepResult& result) {
  if (settings_.spike_z <= 0) return false;
  const std::optional<double> z = losses_.z_score(result.loss);
  losses_.add(result.loss);
  if (!z || *z < settings_.spike_z) return false;
  result.spike = z;
  log::warn(
      "step {}: the loss spikes: {:.4f} lies {:.1f} standard deviations above the steps "
      "before{}",
      result.step, result.loss, *z,
      settings_.on_spike == OnSpike::train ? "" : "; the step is skipped");
  return true;
}

// Only after a step that is skipped: its inputs are as they were, and its gradients are not needed.
// Not where ranks wait for each other within it, since each may stop at another node.
std::string Trainer::first_not_finite(const Batch& batch) {
  if (settings_.sharding.splits_masters()) return "";
  for (int64_t row = 0; row < own_rows(); row += settings_.micro_batch) {
    fill_inputs(batch, row);
    std::string found = program_->first_not_finite(stream_, {.first_micro_batch = row == 0});
    if (!found.empty()) return found;
  }
  return "";
}

void Trainer::layers_change() {
  if (finished_ == 0) return;
  const EnabledLayers before = layers_at_(finished_ - 1), now = layers_at_(finished_);
  if (now == before) return;
  losses_.forget();
  EnabledLayers joining;
  std::set_difference(now.begin(), now.end(), before.begin(), before.end(),
                      std::inserter(joining, joining.end()));
  before_change_();
  if (layers_join_) layers_join_(joining);
}

// What of a gradient this rank counts in the norm: every element once over all ranks.
View Trainer::owned(const ParameterGradient& gradient) const {
  const Sharding& sharding = settings_.sharding;
  const View view = program_->view(gradient.gradient);
  if (!sharding.shared()) return view;
  const Partition* rows = sharding.partition(gradient.name);
  if (!rows) return sharding.rank() == 0 ? view : View{};
  return sharding.splits_masters() ? view : rows_of(view, sharding.own(*rows));
}

// Looked for once it is known that there is one: a look waits for the queue.
std::string Trainer::first_bad_gradient(double* sums) {
  for (const ParameterGradient& g : gradients_) {
    sums[1] = 0.0;
    if (const View own = owned(g)) kernels_.sum_squares.run({own, sums}, stream_);
    stream_.wait();
    if (sums[1] > 0) return g.name;
  }
  return "";
}

// Of what the ranks found, that of the first that found anything.
std::string Trainer::first_of_ranks(const std::string& found) const {
  if (!settings_.sharding.shared()) return found;
  const std::vector<std::string> all = settings_.sharding.ranks->all_gather(found);
  const auto first =
      std::find_if(all.begin(), all.end(), [](const std::string& text) { return !text.empty(); });
  return first == all.end() ? "" : *first;
}

StepResult Trainer::step() {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  const auto start = Clock::now();
  layers_change();
  program();
  program_->profile_into(times_);
  const Batch batch = next_batch_(settings_.batch);
  StepResult result;
  result.step = finished_ + 1;
  result.tokens = batch.valid_targets;
  result.enabled_layers = int64_t(compiled_for_.size());
  result.learning_rate = learning_rate_at_(finished_);

  const double inv_tokens = 1.0 / double(batch.valid_targets);
  store_.get("inv_tokens").as<float>()[0] = float(inv_tokens);
  if (const View step = store_.find(kRoundingStep)) step.as<int64_t>()[0] = finished_;
  program_->run_prologue(stream_);
  double ce = 0, kl = 0;
  for (int64_t row = 0; row < own_rows(); row += settings_.micro_batch) {
    fill_inputs(batch, row);
    program_->run_body(stream_, {.first_micro_batch = row == 0});
    const float* sums = program_->view(sums_).as<float>();
    ce += double(sums[0]);
    kl += double(sums[1]);
  }
  program_->run_epilogue(stream_);

  std::vector<TrainedParameter> parameters;
  // The sum, and how many are not finite, where kernels of any backend can write them.
  const View written = store_.make(kGradientNorm, {2}, DType::i64, Category::inputs);
  auto* norm = written.as<double>();
  norm[0] = norm[1] = 0.0;
  for (const ParameterGradient& g : gradients_) {
    if (const View own = owned(g)) kernels_.sum_squares.run({own, norm}, stream_);
    parameters.push_back({g.name, store_.get(g.name), program_->view(g.gradient),
                          joined_at_ ? joined_at_(g.name) : 0});
  }
  stream_.wait();
  double sums[4] = {ce, kl, norm[0], norm[1]};
  if (settings_.sharding.shared()) settings_.sharding.ranks->all_reduce(std::span<double>(sums));
  result.cross_entropy = sums[0] * inv_tokens;
  result.kl = sums[1] * inv_tokens;
  result.loss =
      double(settings_.cross_entropy) * result.cross_entropy + double(settings_.kl) * result.kl;
  result.grad_norm = std::sqrt(sums[2]);

  if (!std::isfinite(result.loss) || sums[3] > 0 || !std::isfinite(result.grad_norm)) {
    result.skipped = true;
    ++bad_steps_;
    const std::string first_bad = first_of_ranks(norm[1] > 0 ? first_bad_gradient(norm) : "");
    const std::string first = first_of_ranks(first_not_finite(batch));
    log::warn("step {}: non-finite {}{}; the step is skipped ({} in a row)", result.step,
              !std::isfinite(result.loss) ? "loss"
              : first_bad.empty()         ? "gradient norm"
                                          : "gradient of " + first_bad,
              first.empty() ? "" : ", first made by " + first, bad_steps_);
  } else if (is_spike(result) && settings_.on_spike != OnSpike::train) {
    bad_steps_ = 0;
    result.skipped = true;
  } else {
    bad_steps_ = 0;
    const double clip = settings_.clip_grad_norm;
    const double scale = clip > 0 && result.grad_norm > clip ? clip / result.grad_norm : 1.0;
    before_change_();
    const auto update = Clock::now();
    optimizer_.update(parameters, finished_ + 1, result.learning_rate, scale, stream_);
    stream_.wait();
    result.optimizer_seconds = seconds_since(update);
  }
  ++finished_;
  skipped_ += int64_t(result.skipped);
  result.seconds = seconds_since(start);
  if (bad_steps_ >= settings_.max_bad_steps)
    throw Error(Exit::diverged,
                fmt::format("training diverged: {} non-finite steps in a row, the last at step {}; "
                            "lower train.learning_rate or start from the last checkpoint",
                            bad_steps_, result.step));
  return result;
}

}  // namespace qat
