#include "recipes/run/train_run.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/core/log.h"
#include "engine/io/atomic_file.h"
#include "engine/train/metrics.h"
#include "engine/train/run_lock.h"
#include "engine/train/signals.h"
#include "models/evaluate.h"
#include "models/families.h"
#include "models/memory_plan.h"
#include "recipes/run/checkpointing.h"
#include "recipes/run/finish.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/scratch_model.h"
#include "recipes/run/training_setup.h"

namespace qat {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

class TrainRun {
 public:
  explicit TrainRun(const recipe::Recipe& recipe)
      : recipe_(recipe), stream_(int(recipe.threads)), kernels_(cpu_kernels()) {}

  void dry_run() {
    open_model_description();
    describe();
  }

  Exit run() {
    catch_stop_signals();
    open_directory();
    if (already_complete()) return Exit::ok;
    open_model_description();
    save_model_description();
    describe();
    open_data();
    load_weights();
    const bool resumed = resume();
    if (!resumed) before_training();
    if (!stop_signal() && trainer_->finished_steps() < recipe_.train.steps) {
      if (!train_loop()) return Exit::stopped_early;
    }
    if (stop_signal()) return stopped();
    finish();
    return Exit::ok;
  }

 private:
  void open_directory();
  bool already_complete() const;
  void open_model_description();
  void save_model_description() const;
  void describe() const;
  void open_data();
  void load_weights();
  bool resume();
  void before_training();
  bool train_loop();
  Exit stopped();
  void finish();
  void save();
  json evaluate(const char* label, const QuantPlan& plan);
  json state() const;
  std::string config_json() const {
    return source_ ? source_->config_json() : config_to_huggingface(config_);
  }

  const recipe::Recipe& recipe_;
  Stream stream_;
  const KernelTable& kernels_;
  Store store_;
  std::string run_id_;
  std::unique_ptr<RunLock> lock_;
  std::unique_ptr<ModelSource> source_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelConfig config_;
  std::optional<ModelConfig> teacher_config_;
  QuantSetup quant_;
  std::unique_ptr<QuantSchedule> quant_schedule_;
  std::unique_ptr<Schedule> schedule_;
  std::optional<Dataset> data_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<CheckpointWriter> checkpoints_;
  int64_t saved_step_ = -1;
  int failed_saves_ = 0;
  json results_ = json::object();  ///< what was measured before training, kept in checkpoints
};

void TrainRun::open_directory() {
  std::error_code error;
  fs::create_directories(recipe_.out, error);
  if (error)
    refuse("out: cannot make {}: {}; choose another directory", recipe_.out, error.message());
  run_id_ = new_run_id();
  lock_ = std::make_unique<RunLock>(recipe_.out, run_id_);
  const std::string resolved = recipe_.out + "/recipe.yaml";
  if (fs::exists(resolved) && has_checkpoints(recipe_.out + "/checkpoints") &&
      recipe_.resume.word != recipe::ResumeKind::never)
    recipe::check_resumable(recipe::load_recipe(resolved), recipe_, recipe_.out);
}

bool TrainRun::already_complete() const {
  const std::string path = recipe_.out + "/result.json";
  if (recipe_.resume.word == recipe::ResumeKind::never || !fs::exists(path)) return false;
  std::ifstream file(path);
  const json result = json::parse(file, nullptr, false);
  if (!result.is_object() || result.value("recipe_hash", "") != recipe::recipe_hash(recipe_))
    return false;
  log::info("{}: already complete; nothing to do", recipe_.out);
  return true;
}

void TrainRun::open_model_description() {
  if (recipe_.model.scratch()) {
    tokenizer_ = Tokenizer::open(recipe_.model.tokenizer);
    config_ = scratch_config(recipe_.model, tokenizer_->vocab_size());
    config_.bos_id = tokenizer_->bos_id();
    if (tokenizer_->eos_id() >= 0) config_.eos_ids = {tokenizer_->eos_id()};
  } else {
    source_ = ModelSource::open(recipe_.model.from.path);
    config_ = source_->config();
    tokenizer_ = Tokenizer::open(recipe_.model.from.path);
  }
  if (recipe_.distill.teacher.word == recipe::TeacherKind::self) teacher_config_ = config_;
  if (recipe_.distill.teacher.word == recipe::TeacherKind::path)
    teacher_config_ = ModelSource::open(recipe_.distill.teacher.path)->config();
  if (teacher_config_ && teacher_config_->vocab != config_.vocab)
    refuse("distill.teacher: it has {} tokens, the model {}; both need one tokenizer",
           teacher_config_->vocab, config_.vocab);
  quant_ = make_quant_setup(recipe_.quantize, config_);
  quant_schedule_ = std::make_unique<QuantSchedule>(quant_schedule(recipe_, config_, quant_.plan));
  schedule_ = std::make_unique<Schedule>(learning_rate_schedule(recipe_, *quant_schedule_));
}

void TrainRun::save_model_description() const {
  const std::string model = model_directory(recipe_.out);
  fs::create_directories(model);
  write_file(recipe_.out + "/recipe.yaml", recipe::to_yaml(recipe_));
  write_file(model + "/config.json", config_json());
  write_file(model + "/tokenizer.json", tokenizer_->to_json());
  write_file(model + "/tokenizer_config.json", tokenizer_->config_json());
}

void TrainRun::describe() const {
  for (const std::string& warning : recipe_.warnings) log::warn("{}", warning);
  for (const std::string& note : quant_.notes) log::warn("{}", note);
  log::info("recipe {}  backend cpu ({}, {} threads)", recipe::recipe_hash(recipe_), cpu_isa(),
            stream_.threads());
  log::info("model {}: {} layers, {:.1f}M parameters, {} of {} linears quantized ({})",
            config_.architecture, config_.layers, double(config_.parameters()) / 1e6,
            quant_.plan.linears.size(), decoder_linears(config_).size(), recipe_.quantize.preset);
  if (recipe_.train.steps > 0) {
    log::info("schedule: {}", quant_schedule_->timeline(recipe_.train.steps));
    log::info("learning rate: {}", schedule_->describe());
    const TrainingSpec spec = training_spec(recipe_, config_, teacher_config_, quant_.plan);
    for (const std::string& line :
         memory_report(plan_training_memory(spec, trainer_settings(recipe_, spec), kernels_)))
      log::info("{}", line);
  }
}

void TrainRun::open_data() {
  if (recipe_.train.steps == 0) return;
  data_ = Dataset::open(recipe_.data.train,
                        tokenize_options(recipe_, text_encoder(*tokenizer_, config_)),
                        dataset_options(recipe_, config_));
  log::info("data: {} documents, {} tokens, {} sequences of {} an epoch",
            data_->summary().documents, data_->summary().tokens, data_->sequences(),
            recipe_.data.sequence);
}

void TrainRun::load_weights() {
  const DType masters = master_dtype(recipe_);
  fill_rope_table(config_, store_, "");
  if (teacher_config_) fill_rope_table(*teacher_config_, store_, kTeacherPrefix);
  if (source_)
    load_parameters(*source_, store_, "", masters, Category::masters);
  else
    initialize_parameters(config_, store_, float(recipe_.model.initializer_range), recipe_.seed);
  if (recipe_.distill.teacher.word == recipe::TeacherKind::self)
    load_parameters(*source_, store_, kTeacherPrefix, recipe_.dtype, Category::teacher);
  if (recipe_.distill.teacher.word == recipe::TeacherKind::path)
    load_parameters(*ModelSource::open(recipe_.distill.teacher.path), store_, kTeacherPrefix,
                    recipe_.dtype, Category::teacher);
  CheckpointOptions options;
  options.run_id = run_id_;
  options.keep = int(recipe_.checkpoint.keep);
  options.lock = lock_.get();
  checkpoints_ = std::make_unique<CheckpointWriter>(recipe_.out + "/checkpoints", options);
  if (recipe_.train.steps == 0) return;
  const TrainingSpec spec = training_spec(recipe_, config_, teacher_config_, quant_.plan);
  trainer_ = std::make_unique<Trainer>(
      trainer_settings(recipe_, spec), store_, kernels_, stream_, spec.trained,
      [this](int64_t rows) { return data_->next(rows); },
      [spec](const EnabledLayers& layers) { return build_training_graph(spec, layers); },
      [this](int64_t step) { return layers_at(*quant_schedule_, step); },
      [this](int64_t step) { return schedule_->at(step); });
}

bool TrainRun::resume() {
  std::optional<Checkpoint> found;
  const std::string directory = recipe_.out + "/checkpoints";
  switch (recipe_.resume.word) {
    case recipe::ResumeKind::never:
      break;
    case recipe::ResumeKind::automatic:
      found = resume_checkpoint(directory, NoneWhole::refuse);
      break;
    case recipe::ResumeKind::automatic_or_scratch:
      found = resume_checkpoint(directory, NoneWhole::start_over);
      break;
    case recipe::ResumeKind::path:
      found = Checkpoint::load(recipe_.resume.path);
      break;
  }
  set_aside_newer_checkpoints(directory, found ? found->step() : -1, run_id_);
  if (!found) return false;
  restore_everything(*found, config_, store_);
  const json& state = found->state();
  results_ = state.at("results");
  if (trainer_) {
    if (state.at("data").at("identity") != std::to_string(data_->identity()))
      refuse(
          "{}: the training data changed since this checkpoint was written; restore the files or "
          "start over with --resume never",
          found->path());
    data_->seek({state.at("data").at("epoch"), state.at("data").at("index")});
    trainer_->resume_at(found->step(), state.at("bad_steps"));
  }
  saved_step_ = found->step();
  log::info("resuming from {} at step {}", found->path(), found->step());
  return true;
}

json TrainRun::evaluate(const char* label, const QuantPlan& plan) {
  json result = json::object();
  for (const std::string& path : recipe_.data.eval) {
    const auto windows = EvalWindows::open(
        path, tokenize_options(recipe_, text_encoder(*tokenizer_, config_)),
        {.window = recipe_.evaluate.context, .max_windows = recipe_.evaluate.max_windows});
    ForwardSpec spec;
    spec.config = config_;
    spec.plan = plan;
    spec.fuse = Switch::on;
    spec.build.dtype = recipe_.evaluate.dtype;
    spec.build.weight_dtype = master_dtype(recipe_);
    const Perplexity p = evaluate_perplexity(spec, store_, kernels_, stream_, windows, 4);
    log::info("{}: perplexity {:.4f} on {} ({} tokens)", label, p.perplexity, path, p.tokens);
    result[path] = {{"perplexity", p.perplexity}, {"nll", p.nll}, {"tokens", p.tokens}};
  }
  return result;
}

void TrainRun::before_training() {
  results_["source"] = evaluate("source", {});
  if (!quant_.plan.linears.empty()) results_["ptq"] = evaluate("PTQ", quant_.plan);
}

json TrainRun::state() const {
  json state = {{"results", results_}, {"recipe_hash", recipe::recipe_hash(recipe_)}};
  if (trainer_) {
    state["bad_steps"] = trainer_->bad_steps();
    state["data"] = {{"epoch", data_->position().epoch},
                     {"index", data_->position().index},
                     {"identity", std::to_string(data_->identity())}};
  }
  return state;
}

void TrainRun::save() {
  const int64_t step = trainer_ ? trainer_->finished_steps() : 0;
  if (step == saved_step_) return;
  const std::vector<CheckpointTensor> tensors = checkpoint_tensors(store_);
  const SaveResult result = checkpoints_->save(step, state(), tensors);
  if (result.committed()) {
    failed_saves_ = 0;
    saved_step_ = step;
    log::info("saved {} ({:.1f} MiB in {:.2f} s)", result.path, double(result.bytes) / 1048576,
              result.seconds);
    return;
  }
  ++failed_saves_;
  log::error("could not save step {}: {}", step, result.message);
  if (result.status == SaveResult::Status::not_finite) throw Error(Exit::diverged, result.message);
  if (failed_saves_ >= recipe_.checkpoint.max_failed_saves)
    throw Error(Exit::cannot_write,
                fmt::format("{} saves in a row failed, the last with: {}; the newest whole "
                            "checkpoint is step {}",
                            failed_saves_, result.message, saved_step_));
}

Exit TrainRun::stopped() {
  log::info("stopped by {}; run the same command again to continue", signal_name(stop_signal()));
  return Exit::stopped_early;
}

bool TrainRun::train_loop() {
  MetricsFile metrics(recipe_.out + "/metrics.jsonl", trainer_->finished_steps());
  const int64_t steps = recipe_.train.steps;
  double seconds = 0;
  int64_t timed = 0;
  while (trainer_->finished_steps() < steps) {
    const StepResult s = trainer_->step();
    const double tokens_per_s = double(recipe_.train.batch * recipe_.data.sequence) / s.seconds;
    MetricsRecord record(s.step);
    record.add("loss", s.loss)
        .add("cross_entropy", s.cross_entropy)
        .add("kl", s.kl)
        .add("lr", s.learning_rate)
        .add("grad_norm", s.grad_norm)
        .add("tokens", s.tokens)
        .add("tokens_per_s", tokens_per_s)
        .add("enabled_layers", s.enabled_layers)
        .add("skipped", int(s.skipped));
    metrics.write(record);
    seconds += s.seconds;
    ++timed;
    if (s.step % recipe_.train.log_every == 0 || s.step == steps)
      log::info(
          "step {}/{}  loss {:.4f}  kl {:.5f}  lr {:.2e}  layers {}/{}  {:.0f} tok/s  {:.0f} s "
          "left",
          s.step, steps, s.loss, s.kl, s.learning_rate, s.enabled_layers, config_.layers,
          tokens_per_s, seconds / double(timed) * double(steps - s.step));
    if (stop_signal()) {
      save();
      metrics.sync();
      stopped();
      return false;
    }
    if (recipe_.checkpoint.every > 0 && s.step % recipe_.checkpoint.every == 0) {
      save();
      metrics.sync();
    }
  }
  return true;
}

void TrainRun::finish() {
  save();
  if (!quant_.plan.linears.empty() && recipe_.train.steps > 0)
    results_["qat"] = evaluate("QAT", quant_.plan);
  FinishInputs inputs{.recipe = recipe_,
                      .config = config_,
                      .config_json = config_json(),
                      .source = source_ ? source_->path() : "",
                      .tokenizer = *tokenizer_,
                      .plan = quant_.plan,
                      .store = store_,
                      .kernels = kernels_,
                      .stream = stream_,
                      .results = results_};
  finish_run(inputs);
}

}  // namespace

Exit train(const recipe::Recipe& recipe, DryRun dry_run) {
  TrainRun run(recipe);
  if (dry_run == DryRun::yes) {
    run.dry_run();
    return Exit::ok;
  }
  return run.run();
}

}  // namespace qat
