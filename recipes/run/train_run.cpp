#include "recipes/run/train_run.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/core/log.h"
#include "engine/core/seconds_of.h"
#include "engine/dist/agreement.h"
#include "engine/io/atomic_file.h"
#include "engine/io/json.h"
#include "engine/train/checkpoint_failures.h"
#include "engine/train/metrics.h"
#include "engine/train/progress.h"
#include "engine/train/run_directory.h"
#include "engine/train/run_lock.h"
#include "engine/train/sharded_store.h"
#include "engine/train/signals.h"
#include "engine/train/snapshot.h"
#include "engine/train/time_limit.h"
#include "models/adapter.h"
#include "models/dealing.h"
#include "models/evaluate.h"
#include "models/export/export_model.h"
#include "models/export/gguf.h"
#include "models/export/peft.h"
#include "models/families.h"
#include "models/memory_plan.h"
#include "models/prepare.h"
#include "models/rotate.h"
#include "models/scaling.h"
#include "models/tokenizer/chat_template.h"
#include "recipes/run/adapter_setup.h"
#include "recipes/run/auto_bits.h"
#include "recipes/run/backend.h"
#include "recipes/run/checkpointing.h"
#include "recipes/run/exporting.h"
#include "recipes/run/finish.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/quant_setup.h"
#include "recipes/run/quant_summary.h"
#include "recipes/run/rank_checks.h"
#include "recipes/run/recipe/words.h"
#include "recipes/run/run_evaluation.h"
#include "recipes/run/run_facts.h"
#include "recipes/run/run_source.h"
#include "recipes/run/scratch_model.h"
#include "recipes/run/solver_setup.h"
#include "recipes/run/step_log.h"
#include "recipes/run/tokenizer_files.h"
#include "recipes/run/training_data.h"
#include "recipes/run/training_setup.h"

namespace qat {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr size_t kChatTemplateBytes = size_t(16) << 20;
constexpr int64_t kMostRollbacks = 3;   // to one checkpoint
constexpr uint64_t kSnapshotShare = 2;  // of the memory that is free the half may be taken

// A dry run plans a model of which only the configuration is there.
bool has_weights(const std::string& path) {
  if (!fs::is_directory(path) || !fs::exists(path + "/config.json")) return true;
  for (const char* name : {"/model.safetensors", "/model.safetensors.index.json"})
    if (fs::exists(path + name)) return true;
  return false;
}

ModelConfig config_alone(const std::string& directory) {
  const std::string file = directory + "/config.json";
  return config_from_huggingface(read_json_file(file), file);
}

// Bytes that a process may still take without another's being swapped out; 0: not known.
uint64_t free_host_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    uint64_t kibibytes = 0;
    if (key == "MemAvailable:" && file >> kibibytes) return kibibytes << 10;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

// One GPU a run: ranks share their work on the processor.
std::unique_ptr<Backend> backend_of_run(const recipe::Recipe& recipe, const Communicator& ranks) {
  const int threads = recipe.threads > 0 ? int(recipe.threads) : default_threads(ranks);
  return make_backend(ranks.size() > 1 ? recipe::Backend::cpu : recipe.backend, threads);
}

class TrainRun {
 public:
  TrainRun(const recipe::Recipe& recipe, const std::string& command, Communicator& ranks)
      : recipe_(recipe),
        command_(command),
        ranks_(ranks),
        backend_(backend_of_run(recipe, ranks)),
        stream_(backend_->stream()),
        kernels_(backend_->kernels()),
        host_(recipe.threads > 0 ? int(recipe.threads) : default_threads(ranks)),
        time_limit_(recipe.checkpoint.time_limit, std::getenv("SLURM_JOB_END_TIME")),
        store_(backend_.get()),
        directory_(recipe.out) {}

  void dry_run() {
    dry_run_ = DryRun::yes;
    open_model_description();
    describe();
  }

  void describe_scale(const PaperMachines& machines) const;

  Exit run(RunHealth& health) {
    health_ = &health;
    catch_stop_signals();
    health_->watch(recipe_.train.watchdog);
    if (of_any_rank(leads() && already_complete())) return Exit::ok;
    open_directory();
    open_model_description();
    if (leads()) save_model_description();
    require_same_run(recipe_, config_json(), ranks_);
    describe();
    if (leads()) evaluation_.emplace(recipe_);
    start_.data = seconds_of([this] { open_data(); });
    bool resumed = false;
    start_.weights = seconds_of([this, &resumed] {
      load_weights();
      resumed = resume();
    });
    if (!resumed) before_training();
    if (of_any_rank(stop_signal() != 0)) return stopped();
    make_trainer();
    // What took minutes to solve for, or to choose, outlives a kill.
    if (trainer_ && !resumed && (recipe_.quantize.solved() || choices_)) save(Importance::interval);
    if (trainer_ && !train_loop()) return stopped();
    finish();
    ranks_.barrier();
    return Exit::ok;
  }

 private:
  bool leads() const { return ranks_.rank() == 0; }
  bool of_any_rank(bool mine) { return of_any(ranks_, mine); }
  TrainingSpec spec() const;
  void open_directory();
  void claim_directory();
  bool already_complete() const;
  void open_model_description();
  void make_schedules();
  void save_model_description() const;
  void describe();
  void open_data();
  TokenizeOptions tokenizing() const;
  void load_weights();
  void load_adapters(DType matrices);
  std::string describe_adapters() const;
  void make_trainer();
  bool resume();
  void check_sources(const json& state, const std::string& checkpoint) const;
  void before_training();
  void choose_widths();
  void take_widths(const BitWidths& widths, const std::string& from);
  StepResult take_step();
  std::optional<Checkpoint> due_checkpoint() const;
  bool roll_back(const StepResult& spiked);
  bool out_of_time(double step_seconds);
  StepLogOptions step_log_options();
  bool train_loop();
  Exit stopped();
  void finish();
  enum class Importance { interval, last };
  void save(Importance importance);
  void wait_for_save();
  void note(const SaveResult& result, Importance importance);
  bool saves_beside_training() const {
    return recipe_.checkpoint.async && recipe_.checkpoint.every > 0 && recipe_.train.steps > 0 &&
           !no_room_for_snapshot_;
  }
  void reserve_snapshot(const std::vector<CheckpointTensor>& tensors);
  void evaluate(const char* stage, const char* label, const QuantPlan& plan);
  void evaluate_rounded();
  json state() const;
  std::string config_json() const {
    const std::string json = source_ ? source_->config_json() : config_to_huggingface(config_);
    return recipe_.quantize.rotation.any() ? rotated_config_json(json, config_) : json;
  }

  const recipe::Recipe& recipe_;
  const std::string command_;
  Communicator& ranks_;
  RunHealth* health_ = nullptr;  ///< of a run; a plan has none
  const std::unique_ptr<Backend> backend_;
  Stream& stream_;
  const KernelTable& kernels_;
  /// Of the processor, for what works on the host's own memory: solvers, adapters, exports.
  Stream host_;
  TimeLimit time_limit_;
  Store store_;
  std::string run_id_;
  std::unique_ptr<RunLock> lock_;
  std::unique_ptr<ModelSource> source_;
  std::unique_ptr<ModelSource> teacher_;        ///< until it is loaded
  std::map<std::string, std::string> sources_;  ///< recipe key -> checkpoint of a run taken for it
  std::unique_ptr<Tokenizer> tokenizer_;
  std::string chat_template_;  ///< of data.chat_template; empty: the tokenizer's own
  ModelConfig config_;
  std::optional<ModelConfig> teacher_config_;
  QuantSetup quant_;
  std::optional<BitChoices> choices_;  ///< of quantize.auto_bits
  BitWidths widths_;                   ///< chosen before training, or read from a checkpoint
  AdapterPlan adapters_;
  std::string base_;  ///< identity of what is frozen below adapters
  Sharding sharding_;
  std::unique_ptr<QuantSchedule> quant_schedule_;
  std::unique_ptr<Schedule> schedule_;
  std::optional<Dataset> data_;
  std::optional<RunEvaluation> evaluation_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<CheckpointWriter> checkpoints_;
  int64_t saved_step_ = -1;
  DryRun dry_run_ = DryRun::no;
  RunDirectory directory_;
  std::unique_ptr<SaveFailures> failures_;
  std::vector<int64_t> sensitivity_order_;  ///< when the recipe asks for that order
  TrainerState resumed_;                    ///< of the checkpoint this process goes on from
  int64_t rollbacks_ = 0;                   ///< to the newest checkpoint
  double save_seconds_ = 0;  ///< the longest save so far, or a guess before the first
  bool save_measured_ = false;
  bool no_room_for_snapshot_ = false;
  std::optional<TrainingMemory> memory_;  ///< as planned; none where nothing is trained
  std::string stop_reason_;
  struct {
    double data = 0, weights = 0;
  } start_;                        ///< seconds
  json results_ = json::object();  ///< what was measured before training, kept in checkpoints
};

// What a finished run holds is found before anything is touched.
bool TrainRun::already_complete() const {
  if (recipe_.resume.word == recipe::ResumeKind::never) return false;
  const std::optional<json> result = directory_.complete_result();
  if (!result || result->value("recipe_hash", "") != recipe::recipe_hash(recipe_)) return false;
  log::info("{}: already complete; nothing to do", recipe_.out);
  return true;
}

// The others wait: what the first finds, it finds for all.
void TrainRun::open_directory() {
  run_id_ = of_first(ranks_, new_run_id());
  if (leads()) claim_directory();
  ranks_.barrier();
}

void TrainRun::claim_directory() {
  std::vector<std::string> inputs = recipe_.data.train;
  inputs.insert(inputs.end(), recipe_.data.eval.begin(), recipe_.data.eval.end());
  if (!recipe_.model.scratch()) inputs.push_back(recipe_.model.from.path);
  if (recipe_.distill.teacher.word == recipe::TeacherKind::path)
    inputs.push_back(recipe_.distill.teacher.path);
  if (recipe_.adapter.from.word == recipe::AdapterStart::path)
    inputs.push_back(recipe_.adapter.from.path);
  directory_.check(inputs);
  directory_.prepare();
  lock_ = std::make_unique<RunLock>(recipe_.out, run_id_);
  if (fs::exists(directory_.recipe()) && has_checkpoints(directory_.checkpoints()) &&
      recipe_.resume.word != recipe::ResumeKind::never)
    recipe::check_resumable(recipe::load_recipe(directory_.recipe()), recipe_, recipe_.out);
}

void TrainRun::open_model_description() {
  if (recipe_.model.scratch()) {
    tokenizer_ = Tokenizer::open(tokenizer_path(recipe_.model.tokenizer));
    config_ = scratch_config(recipe_.model, tokenizer_->vocab_size());
    config_.bos_id = tokenizer_->bos_id();
    if (tokenizer_->eos_id() >= 0) config_.eos_ids = {tokenizer_->eos_id()};
  } else {
    if (dry_run_ == DryRun::yes && !has_weights(recipe_.model.from.path)) {
      log::info("{}: no weights there; planned from its config.json", recipe_.model.from.path);
      config_ = config_alone(recipe_.model.from.path);
    } else {
      OpenedSource source = open_source(recipe_.model.from.path, "model");
      source_ = std::move(source.model);
      config_ = source_->config();
      if (!source.checkpoint.empty()) sources_["model"] = source.checkpoint;
      tokenizer_ = Tokenizer::open(tokenizer_path(recipe_.model.from.path));
    }
  }
  if (tokenizer_ && recipe_.data.chat_template.word == recipe::TemplateKind::path) {
    chat_template_ = read_text_file(recipe_.data.chat_template.path, kChatTemplateBytes);
    try {
      ChatTemplate(*tokenizer_, chat_template_);
    } catch (const Error& error) {
      refuse("data.chat_template: {}: {}", recipe_.data.chat_template.path, error.what());
    }
  }
  if (recipe_.distill.teacher.word == recipe::TeacherKind::self) teacher_config_ = config_;
  if (recipe_.distill.teacher.word == recipe::TeacherKind::path) {
    OpenedSource teacher = open_source(recipe_.distill.teacher.path, "distill.teacher");
    teacher_ = std::move(teacher.model);
    teacher_config_ = teacher_->config();
    if (!teacher.checkpoint.empty()) sources_["distill.teacher"] = teacher.checkpoint;
  }
  if (teacher_config_ && teacher_config_->vocab != config_.vocab)
    refuse("distill.teacher: it has {} tokens, the model {}; both need one tokenizer",
           teacher_config_->vocab, config_.vocab);
  if (const recipe::RotationOptions& rotation = recipe_.quantize.rotation; rotation.any())
    config_ = rotated(config_, {.down = rotation.online,
                                .keys = rotation.online && recipe_.quantize.kv_cache.any()});
  quant_ = make_quant_setup(recipe_.quantize, config_);
  if (recipe_.quantize.auto_bits.any()) choices_ = bit_choices(recipe_.quantize, config_);
  adapters_ = make_adapter_plan(recipe_, config_);
  mark_solved(recipe_, adapters_, config_, quant_.plan);
  for (const recipe::ExportFormat format : recipe_.exports) {
    check_exportable(format, quant_.plan, config_, tokenizer_.get());
    if (!choices_) continue;
    for (const auto& [bits, plan] : choices_->plans)
      check_exportable(format, plan, config_, tokenizer_.get());
  }
  make_schedules();
  check_shares(recipe_, ranks_);
  if (recipe_.train.steps > 0) {
    sharding_.ranks = &ranks_;
    sharding_.stage = ZeroStage(recipe_.train.zero_stage);
    if (ranks_.size() > 1)
      sharding_.partitions = deal_parameters(
          spec(), trained_tensors(adapters_, config_, quant_.plan), sharding_.stage, ranks_.size());
  }
}

TrainingSpec TrainRun::spec() const {
  TrainingSpec spec =
      training_spec(recipe_, config_, teacher_config_, quant_.plan, adapters_, kernels_);
  if (recipe_.train.micro_batch == 0) spec.build.batch = recipe_.train.batch / ranks_.size();
  spec.sharding = sharding_;
  return spec;
}

// Again once the sensitivity order is known: measured now, or read from a checkpoint.
void TrainRun::make_schedules() {
  quant_schedule_ = std::make_unique<QuantSchedule>(
      quant_schedule(recipe_, config_, quant_.plan, sensitivity_order_));
  schedule_ = std::make_unique<Schedule>(learning_rate_schedule(recipe_, *quant_schedule_));
}

void TrainRun::save_model_description() const {
  const std::string model = model_directory(recipe_.out);
  fs::create_directories(model);
  write_file_atomically(directory_.recipe(), recipe::to_yaml(recipe_));
  write_file_atomically(model + "/config.json", config_json());
  ExportFiles files;
  files.texts = tokenizer_files(*tokenizer_, chat_template_);
  if (source_ && fs::is_directory(source_->path())) files.source_directory = source_->path();
  write_side_files(model, files);
}

void TrainRun::describe() {
  for (const std::string& warning : recipe_.warnings) log::warn("{}", warning);
  for (const std::string& note : quant_.fallbacks) log::warn("{}", note);
  for (const recipe::ExportFormat format : recipe_.exports)
    for (const std::string& warning : kernel_warnings(format, quant_.plan, config_))
      log::warn("{}", warning);
  log::info("recipe {}  backend {} ({})", recipe::recipe_hash(recipe_), backend_->name(),
            backend_->description());
  if (ranks_.size() > 1)
    log::info("ranks: {}; ZeRO stage {}, {} sequences of the batch each", ranks_.describe(),
              recipe_.train.zero_stage, recipe_.train.batch / ranks_.size());
  log::info("model {}: {} layers, {:.1f}M parameters", config_.architecture, config_.layers,
            double(config_.parameters()) / 1e6);
  const std::string widths = choices_ ? "" : mixed_widths_text(quant_.plan);
  if (!quant_.plan.linears.empty())
    log::info("quantized: {} of {} linears, {}{}{}", planned_linears(quant_.plan),
              decoder_linears(config_).size(), recipe::scheme_text(recipe_.quantize),
              widths.empty() ? "" : "; ", widths);
  if (const std::string alias = recipe::alias_text(recipe_.quantize); !alias.empty())
    log::info("{}", alias);
  for (const std::string& note : quant_.notes) log::info("{}", note);
  if (recipe_.quantize.rotation.any()) log::info("rotated: {}", describe_rotation(config_));
  for (const std::string& line : solver_lines(recipe_, quant_.plan, config_, kernels_))
    log::info("{}", line);
  if (!adapters_.empty()) log::info("adapter: {}", describe_adapters());
  if (recipe_.train.steps > 0) {
    log::info("schedule: {}", quant_schedule_->timeline(recipe_.train.steps));
    log::info("learning rate: {}", schedule_->describe());
    const TrainingSpec training = spec();
    const TrainerSettings settings = trainer_settings(recipe_, training);
    memory_ = plan_training_memory(training, settings, kernels_);
    if (saves_beside_training()) memory_->snapshot = planned_snapshot(training, settings);
    for (const std::string& line : memory_report(*memory_, ranks_.size())) log::info("{}", line);
  }
}

void TrainRun::open_data() {
  if (recipe_.train.steps == 0 && !choices_ &&
      !needs_calibration(quant_.plan, prepare_options(recipe_)))
    return;
  first_then_others(ranks_, [this] {
    data_ = Dataset::open(recipe_.data.train, tokenizing(), dataset_options(recipe_, config_));
  });
  require_alike(ranks_, {{"the identity of data.train", std::to_string(data_->identity())}},
                Exit::refused, "every rank needs the same files");
  describe_data(*data_, *tokenizer_);
}

TokenizeOptions TrainRun::tokenizing() const {
  return tokenize_options(recipe_, text_encoder(*tokenizer_, config_), [this] {
    return make_chat_renderer(
        chat_template_.empty() ? std::make_shared<const ChatTemplate>(*tokenizer_)
                               : std::make_shared<const ChatTemplate>(*tokenizer_, chat_template_));
  });
}

void TrainRun::load_weights() {
  const DType masters = master_dtype(recipe_);
  fill_rope_table(config_, store_, "");
  if (teacher_config_) fill_rope_table(*teacher_config_, store_, kTeacherPrefix);
  if (!adapters_.empty())
    load_adapters(masters);
  else if (source_)
    load_parameters(*source_, store_, "", masters, Category::masters);
  else
    initialize_parameters(config_, store_, float(recipe_.model.initializer_range), recipe_.seed,
                          masters);
  if (recipe_.quantize.rotation.any()) rotate(config_, recipe_.seed, store_, host_);
  if (recipe_.distill.teacher.word == recipe::TeacherKind::self)
    load_parameters(*source_, store_, kTeacherPrefix, recipe_.dtype, Category::teacher);
  if (teacher_)
    load_parameters(*teacher_, store_, kTeacherPrefix, recipe_.dtype, Category::teacher);
  teacher_.reset();
  require_same_weights(store_, {}, ranks_, 0);
  CheckpointOptions options;
  options.run_id = run_id_;
  options.keep = int(recipe_.checkpoint.keep);
  options.lock = lock_.get();
  options.ranks = &ranks_;
  // What a GPU's kernels use the host may not read.
  options.copy =
      &kernels_ == &cpu_kernels() ? SnapshotCopy::beside_training : SnapshotCopy::at_once;
  checkpoints_ = std::make_unique<CheckpointWriter>(directory_.checkpoints(), options);
  failures_ = std::make_unique<SaveFailures>(directory_.checkpoints(),
                                             int(recipe_.checkpoint.max_failed_saves));
}

// The base from the source; the adapters as they start, which a checkpoint may replace.
void TrainRun::load_adapters(DType matrices) {
  load_base(*source_, adapters_, matrices, store_, cpu_kernels(), host_);
  base_ = base_identity(store_);
  if (recipe_.adapter.from.word == recipe::AdapterStart::path)
    load_peft(recipe_.adapter.from.path, adapters_, config_, store_, cpu_kernels(), host_);
  else
    initialize_adapters(adapters_, config_, recipe_.seed, store_, cpu_kernels(), host_);
}

std::string TrainRun::describe_adapters() const {
  int64_t trained = 0;
  for (const SourceTensor& tensor : adapter_tensors(adapters_, config_))
    trained += tensor.shape.count();
  return fmt::format("{}, {:.2f}M parameters trained",
                     qat::describe(adapters_, recipe_.adapter.base), double(trained) / 1e6);
}

void TrainRun::make_trainer() {
  if (recipe_.train.steps == 0) return;
  require_same_weights(store_, sharding_, ranks_, resumed_.finished_steps);
  keep_own_rows(sharding_, store_);
  const TrainingSpec training = spec();
  trainer_ = std::make_unique<Trainer>(
      trainer_settings(recipe_, training), store_, kernels_, stream_, training.trained,
      [this](int64_t rows) {
        return data_->next(rows, {ranks_.rank(), ranks_.size()});
      },
      [training](const EnabledLayers& layers) { return build_training_graph(training, layers); },
      [this](int64_t step) { return layers_at(*quant_schedule_, step); },
      [this](int64_t step) { return schedule_->at(step); });
  start_scales_as_layers_join(quant_.plan, *quant_schedule_, prepare_options(recipe_).scale_start,
                              store_, cpu_kernels(), host_, *trainer_);
  trainer_->resume_at(resumed_);
  trainer_->before_change([this] { checkpoints_->wait_until_copied(); });
  const std::vector<CheckpointTensor> tensors = checkpoint_tensors(store_, sharding_);
  if (saves_beside_training()) reserve_snapshot(tensors);
  double bytes[1] = {double(checkpoint_bytes(tensors))};
  ranks_.all_reduce(std::span<double>(bytes));
  require_disk(directory_.checkpoints(), uint64_t(bytes[0]), int(recipe_.checkpoint.keep));
  constexpr double kSlowDisk = 100e6;  // bytes a second, until a save was measured
  save_seconds_ = bytes[0] / kSlowDisk;
  if (time_limit_.given())
    log::info("time limit: {} left; a save is taken to need {:.1f} s until one is measured",
              duration_text(time_limit_.seconds_left()), save_seconds_);
}

// A run is not to be killed for memory that it can do without: what is saved are the same bytes.
void TrainRun::reserve_snapshot(const std::vector<CheckpointTensor>& tensors) {
  const uint64_t bytes = snapshot_bytes(tensors), free = free_host_memory();
  no_room_for_snapshot_ =
      of_any_rank(free > 0 && bytes * uint64_t(ranks_.local_size()) > free / kSnapshotShare);
  if (!no_room_for_snapshot_) return checkpoints_->reserve(tensors);
  log::warn(
      "checkpoint.async: the copies that checkpoints are written from take {} for each rank, and "
      "{} are free: training waits for each save instead",
      bytes_text(bytes), bytes_text(free));
  memory_->snapshot = 0;
}

TrainerState trainer_state(const Checkpoint& checkpoint) {
  const json& state = checkpoint.state();
  TrainerState trainer;
  trainer.finished_steps = checkpoint.step();
  trainer.bad_steps = state.at("bad_steps");
  trainer.skipped_steps = state.value("skipped_steps", int64_t{0});
  trainer.recent_losses = state.value("recent_losses", std::vector<double>());
  return trainer;
}

bool TrainRun::resume() {
  const std::string directory = directory_.checkpoints();
  const std::optional<Checkpoint> found =
      checkpoint_of_first(ranks_, [&]() -> std::optional<Checkpoint> {
        switch (recipe_.resume.word) {
          case recipe::ResumeKind::never:
            break;
          case recipe::ResumeKind::automatic:
            return resume_checkpoint(directory, NoneWhole::refuse);
          case recipe::ResumeKind::automatic_or_scratch:
            return resume_checkpoint(directory, NoneWhole::start_over);
          case recipe::ResumeKind::path:
            return Checkpoint::load(recipe_.resume.path);
        }
        return std::nullopt;
      });
  if (found) check_sources(found->state(), found->path());
  if (leads()) set_aside_newer_checkpoints(directory, found ? found->step() : -1, run_id_);
  ranks_.barrier();
  if (!found) return false;
  if (choices_) take_widths(saved_widths(*found), found->path());
  if (!adapters_.empty()) check_base(*found, base_, source_->path());
  restore_everything(*found, trained_tensors(adapters_, config_, quant_.plan), sharding_, store_);
  if (!adapters_.empty()) put_masters_on_codes(quant_.plan, store_, cpu_kernels(), host_);
  const json& state = found->state();
  results_ = state.at("results");
  if (data_ && state.contains("data")) {
    if (state.at("data").at("identity") != std::to_string(data_->identity()))
      refuse(
          "{}: the training data changed since this checkpoint was written; restore the files or "
          "start over with --resume never",
          found->path());
    data_->seek({state.at("data").at("epoch"), state.at("data").at("index")});
    resumed_ = trainer_state(*found);
    rollbacks_ = state.value("rollbacks", int64_t{0});
  }
  if (state.contains("sensitivity_order")) {
    sensitivity_order_ = state.at("sensitivity_order").get<std::vector<int64_t>>();
    make_schedules();
  }
  saved_step_ = found->step();
  log::info("resuming from {} at step {}", found->path(), found->step());
  return true;
}

// A teacher that is read again has to be what it was; the run it came from may have gone on.
void TrainRun::check_sources(const json& state, const std::string& checkpoint) const {
  const json then = state.value("sources", json::object());
  for (const auto& [key, now] : sources_) {
    if (key == "model" && recipe_.distill.teacher.word != recipe::TeacherKind::self) continue;
    const std::string before = then.value(key, "");
    if (before != now)
      refuse(
          "{}: it learned from {}, and the newest checkpoint of that run is now {}; a run that "
          "goes on is no teacher to resume with: export its weights (hf-master) and start over "
          "with those as {}",
          checkpoint, before.empty() ? "another model" : before, now, key);
  }
}

// Measures the model as it is now, under a plan, into results_.
void TrainRun::evaluate(const char* stage, const char* label, const QuantPlan& plan) {
  health_->at(trainer_ ? trainer_->finished_steps() : 0, RunStage::evaluate);
  const StageModel model{.stage = stage,
                         .config = config_,
                         .plan = plan,
                         .adapters = adapters_,
                         .store = store_,
                         .kernels = kernels_,
                         .stream = stream_,
                         .tokenizer = *tokenizer_};
  TokenizeOptions tokenize = tokenizing();
  // data.format is that of the training files.
  if (tokenize.read.format != DataFormat::text) tokenize.read.format = DataFormat::automatic;
  json& perplexities = results_[stage] = json::object();
  for (const std::string& path : recipe_.data.eval) {
    if (!recipe_.evaluate.has(recipe::Metric::perplexity)) break;
    std::optional<EvalWindows> windows;
    first_then_others(ranks_, [&] {
      windows = EvalWindows::open(
          path, tokenize,
          {.window = recipe_.evaluate.context, .max_windows = recipe_.evaluate.max_windows});
    });
    const Perplexity p = evaluate_perplexity(evaluation_spec(recipe_, model), store_, kernels_,
                                             stream_, *windows, 4, &ranks_);
    log::info("{}: perplexity {:.4f} on {} ({} tokens)", label, p.perplexity, path, p.tokens);
    perplexities[path] = json_of(p);
  }
  // What one rank computes alone, the others wait for when they next do something together.
  if (!leads()) return;
  evaluation_->measure(model, results_);
  if (source_ && std::string_view(stage) != "source")
    evaluation_->compare(model, *source_, tokenize, results_);
}

void TrainRun::before_training() {
  const bool packed = !adapters_.packed.empty();
  const std::string source =
      packed ? fmt::format("{} base", recipe::word_of(recipe_.adapter.base)) : "source";
  evaluate("source", source.c_str(), {});
  if (packed) results_["source_label"] = source;
  if (quant_.plan.empty()) return;
  if (choices_) choose_widths();
  if (of_any_rank(stop_signal() != 0)) return;
  PrepareOptions options = prepare_options(recipe_);
  options.stop = [] { return stop_signal() != 0; };
  if (recipe_.quantize.solved()) evaluate_rounded();
  const bool wanted = needs_calibration(quant_.plan, options);
  std::vector<Batch> batches;
  if (wanted) {
    Dataset samples = *data_;  // its own position: training still sees every sequence
    batches = calibration_batches([&](int64_t rows) { return samples.next(rows); },
                                  recipe_.quantize.calibrate.samples, kCalibrationRows);
  }
  const MeasuredModel model{
      config_, store_, cpu_kernels(), host_, recipe_.dtype, master_dtype(recipe_), &adapters_};
  std::vector<Batch> looked_at = batches;
  if (looked_at.empty() && data_) {
    Dataset samples = *data_;
    looked_at = calibration_batches([&](int64_t rows) { return samples.next(rows); }, 4, 2);
  }
  ShownDistributions shown;
  shown.before(model, looked_at);
  const PreparedModel prepared = prepare_for_quantization(model, quant_.plan, batches, options);
  if (of_any_rank(stop_signal() != 0)) return;
  results_["distributions"] =
      shown.after(model, quant_.plan, looked_at, !prepared.smoothed.empty());
  if (!prepared.sensitivity.empty())
    results_["sensitivity"] = sensitivity_json(prepared.sensitivity);
  if (!prepared.order.empty()) {
    sensitivity_order_ = prepared.order;
    make_schedules();
    log::info("schedule: {}", quant_schedule_->timeline(recipe_.train.steps));
  }
  if (recipe_.quantize.weights.rounding == recipe::Rounding::ggml)
    round_masters_as_ggml(quant_.plan, store_);
  if (adapters_.empty()) forget_codes_of_trained(quant_.plan, store_);
  evaluate("ptq", "PTQ", quant_.plan);
}

// While the Store holds the model as it came: every measurement begins with that.
void TrainRun::choose_widths() {
  Dataset samples = *data_;
  const std::vector<Batch> batches =
      calibration_batches([&](int64_t rows) { return samples.next(rows); },
                          recipe_.quantize.auto_bits.samples, kCalibrationRows);
  const MeasuredModel model{config_, store_,        cpu_kernels(),
                            host_,   recipe_.dtype, master_dtype(recipe_)};
  const ChosenBits chosen = choose_bits(recipe_.quantize.auto_bits, *choices_, model, batches,
                                        [] { return stop_signal() != 0; });
  if (chosen.widths.empty()) return;
  results_["auto_bits"] = chosen.record;
  take_widths(chosen.widths, "quantize.auto_bits");
}

void TrainRun::take_widths(const BitWidths& widths, const std::string& from) {
  set_widths(*choices_, widths, from, quant_.plan);
  widths_ = widths;
  const std::string mixed = mixed_widths_text(quant_.plan);
  log::info("quantized: {}", mixed.empty() ? quantization_lines(quant_.plan).front() : mixed);
}

// What the solver is compared with: the same grids, chosen and rounded to by each weight alone.
void TrainRun::evaluate_rounded() {
  QuantPlan plan = quant_.plan;
  for (auto& [path, quant] : plan.linears) {
    quant.forget_found_weight();
    if (quant.static_activation) quant.activation.reset();  // not calibrated yet
  }
  evaluate("rtn", "round to nearest", plan);
}

json TrainRun::state() const {
  json state = {{"results", results_}, {"recipe_hash", recipe::recipe_hash(recipe_)}};
  if (!sources_.empty()) state["sources"] = sources_;
  if (!widths_.empty()) state[kBitWidths] = widths_;
  if (!sensitivity_order_.empty()) state["sensitivity_order"] = sensitivity_order_;
  if (!base_.empty()) state["base"] = base_;
  if (trainer_) {
    const TrainerState trainer = trainer_->state();
    state["bad_steps"] = trainer.bad_steps;
    state["skipped_steps"] = trainer.skipped_steps;
    state["recent_losses"] = trainer.recent_losses;
    if (rollbacks_ > 0) state["rollbacks"] = rollbacks_;
    state["data"] = {{"epoch", data_->position().epoch},
                     {"index", data_->position().index},
                     {"identity", std::to_string(data_->identity())}};
  }
  return state;
}

void TrainRun::save(Importance importance) {
  const int64_t step = trainer_ ? trainer_->finished_steps() : 0;
  health_->at(step, RunStage::save);
  if (const int64_t before = checkpoints_->on_its_way(); before >= 0) {
    const double waited = seconds_of([this] { wait_for_save(); });
    if (importance == Importance::interval)
      log::warn(
          "step {}: waited {:.2f} s for the save of step {}: saves take longer than the "
          "steps between them; raise checkpoint.every",
          step, waited, before);
  }
  if (step == saved_step_) return;
  const std::vector<CheckpointTensor> tensors = checkpoint_tensors(store_, sharding_);
  // The last one has no training to go on beside it, and the first is to outlive the first step.
  if (importance == Importance::interval && step > 0 && saves_beside_training())
    checkpoints_->begin(step, state(), tensors);
  else
    note(checkpoints_->save(step, state(), tensors), importance);
}

void TrainRun::wait_for_save() {
  if (checkpoints_->on_its_way() >= 0) note(checkpoints_->finish(), Importance::interval);
}

void TrainRun::note(const SaveResult& result, Importance importance) {
  if (result.committed()) {
    save_seconds_ = save_measured_ ? std::max(save_seconds_, result.seconds) : result.seconds;
    save_measured_ = true;
    saved_step_ = result.step;
  }
  if (importance == Importance::last)
    failures_->require(result);
  else
    failures_->note(result);
}

Exit TrainRun::stopped() {
  log::info("stopped by {}; run the same command again to continue",
            !stop_reason_.empty() ? stop_reason_
            : stop_signal() != 0  ? signal_name(stop_signal())
                                  : "a signal to another rank");
  return Exit::stopped_early;
}

StepResult TrainRun::take_step() {
  health_->at(trainer_->finished_steps() + 1, RunStage::step);
  try {
    StepResult result = trainer_->step();
    health_->finish_step(result.step, result.seconds);
    return result;
  } catch (const Error& error) {
    if (error.code() != Exit::diverged) throw;
    wait_for_save();
    throw Error(error.code(), fmt::format("{}; the last finite checkpoint is {}", error.what(),
                                          failures_->last_whole()));
  }
}

// The newest that was due; one that a stop left between two of them is not in an undisturbed run.
std::optional<Checkpoint> TrainRun::due_checkpoint() const {
  const int64_t every = recipe_.checkpoint.every, now = trainer_->finished_steps();
  if (every > 0)
    for (int64_t step = now / every * every; step > 0; step -= every) {
      const std::string path = fmt::format("{}/step-{}", directory_.checkpoints(), step);
      if (fs::exists(path)) return Checkpoint::load(path);
    }
  return resume_checkpoint(directory_.checkpoints(), NoneWhole::start_over);
}

// What happens depends on the checkpoint and the data position alone: a run that is killed
// afterwards does it again.
bool TrainRun::roll_back(const StepResult& spiked) {
  wait_for_save();
  const std::optional<Checkpoint> found =
      checkpoint_of_first(ranks_, [this] { return due_checkpoint(); });
  if (!found) {
    log::warn("step {}: there is no checkpoint yet to go back to; its update is left out",
              spiked.step);
    return false;
  }
  if (++rollbacks_ > kMostRollbacks)
    throw Error(Exit::diverged,
                fmt::format("step {}: the loss spikes again after {} rollbacks to {}; lower "
                            "train.learning_rate or look at the data there",
                            spiked.step, kMostRollbacks, found->path()));
  restore_everything(*found, trained_tensors(adapters_, config_, quant_.plan), sharding_, store_);
  trainer_->resume_at(trainer_state(*found));
  log::warn("step {}: back to step {}, and on with the data after the spike", spiked.step,
            found->step());
  return true;
}

// A step that could not be saved any more is not begun. The last save waits for the one on its way.
bool TrainRun::out_of_time(double step_seconds) {
  const int saves = checkpoints_->on_its_way() >= 0 ? 2 : 1;
  if (!time_limit_.given() || time_limit_.leaves_room_for(step_seconds, saves * save_seconds_))
    return false;
  stop_reason_ = fmt::format(
      "the time limit ({:.1f} s left, of which a step takes {:.1f} s and a save {:.1f} s)",
      std::max(0.0, time_limit_.seconds_left()), step_seconds, saves * save_seconds_);
  return true;
}

StepLogOptions TrainRun::step_log_options() {
  return {.directory = recipe_.out,
          .metrics = directory_.metrics(),
          .recipe = recipe::to_yaml(recipe_),
          .steps = recipe_.train.steps,
          .every = recipe_.train.log_every,
          .step_tokens = double(recipe_.train.batch * recipe_.data.sequence),
          .flops = flops_per_token(config_, teacher_config_, recipe_.data.sequence),
          .peak = measured_peak(recipe_.dtype, *backend_) * double(ranks_.size()),
          .layers = int(config_.layers),
          .has_teacher = teacher_config_.has_value()};
}

// True when all steps are done; false when a signal or the time limit asked to stop (the checkpoint
// is committed).
bool TrainRun::train_loop() {
  const int64_t steps = recipe_.train.steps;
  if (trainer_->finished_steps() >= steps) {
    if (leads()) MetricsFile(directory_.metrics(), trainer_->finished_steps());
    return true;
  }
  const double compiled = seconds_of([this] { trainer_->program(); });
  log::info("started in {:.2f} s: data {:.2f}, weights {:.2f}, compilation {:.2f}",
            start_.data + start_.weights + compiled, start_.data, start_.weights, compiled);
  std::optional<StepLog> steps_log;
  if (leads()) steps_log.emplace(step_log_options(), trainer_->finished_steps());
  // Synced before: beside a save of gigabytes it would wait for those.
  const auto save_now = [&](Importance importance) {
    if (steps_log) steps_log->clear();
    if (steps_log) steps_log->sync();
    save(importance);
  };
  double longest = 0;  // of the steps of this process; those that compile are longer
  while (trainer_->finished_steps() < steps) {
    if (of_any_rank(out_of_time(longest))) {
      if (trainer_->finished_steps() > 0) save_now(Importance::last);
      return false;
    }
    const StepResult s = take_step();
    longest = std::max(longest, s.seconds);
    if (steps_log) steps_log->write(s);
    int64_t any[] = {stop_signal() != 0, checkpoints_->busy()};
    ranks_.all_reduce_max(any);
    const bool stop = any[0] != 0;
    if (any[1] == 0)
      if (const std::optional<SaveResult> saved = checkpoints_->advance()) {
        if (steps_log) steps_log->clear();
        note(*saved, Importance::interval);
      }
    if (recipe_.train.compare_ranks > 0 && s.step % recipe_.train.compare_ranks == 0)
      require_same_weights(store_, sharding_, ranks_, s.step);
    // In a row of non-finite steps nothing is learned: the checkpoints from before it stay.
    const bool due = recipe_.checkpoint.every > 0 && s.step % recipe_.checkpoint.every == 0 &&
                     trainer_->state().bad_steps == 0;
    if (s.spike && recipe_.train.on_spike == recipe::OnSpike::rollback) {
      if (steps_log) steps_log->clear();
      if (roll_back(s)) {
        if (steps_log) steps_log->rewind(trainer_->finished_steps());
        if (stop) return false;
        continue;
      }
    }
    if (stop || due) {
      if (due) rollbacks_ = 0;
      save_now(stop ? Importance::last : Importance::interval);
    }
    if (stop) return false;
  }
  return true;
}

void TrainRun::finish() {
  save(Importance::last);
  gather_all_rows(sharding_, store_);
  const int64_t skipped = trainer_ ? trainer_->state().skipped_steps : 0;
  if (skipped > 0) log::warn("{} of {} steps were skipped", skipped, recipe_.train.steps);
  if (!quant_.plan.empty() && recipe_.train.steps > 0) evaluate("qat", "QAT", quant_.plan);
  if (quant_.plan.empty() && recipe_.train.steps > 0)
    evaluate("trained", adapters_.empty() ? "trained" : "with adapter", {});
  health_->at(recipe_.train.steps, RunStage::finish);
  if (!leads()) return;
  FinishInputs inputs{
      .recipe = recipe_,
      .config = config_,
      .config_json = config_json(),
      .source = source_ ? source_->path() : "",
      .tokenizer = *tokenizer_,
      .chat_template = chat_template_,
      .plan = quant_.plan,
      .adapters = adapters_,
      .store = store_,
      .kernels = cpu_kernels(),
      .stream = host_,
      .results = results_,
      .skipped_steps = skipped,
      .facts = {
          {"memory", memory_json(memory_ ? &*memory_ : nullptr)},
          {"program", program_json(command_)},
          {"machine",
           {{"backend", backend_->name()}, {"cpu", cpu_isa()}, {"threads", host_.threads()}}}}};
  finish_run(inputs);
}

void TrainRun::describe_scale(const PaperMachines& machines) const {
  if (!memory_ || machines.gpu.empty()) return;
  const TrainingSpec training = spec();
  const double tokens = double(recipe_.train.batch * recipe_.data.sequence);
  const double flops = flops_per_token(config_, teacher_config_, recipe_.data.sequence) * tokens /
                       double(machines.ranks);
  const RankMachine machine = machine_named(machines.gpu);
  const Link link = link_named(machines.link, machine, machines.ranks);
  const std::vector<Traffic> traffic = step_traffic(training, trainer_settings(recipe_, training));
  const StepTime time = step_time(flops, traffic, machine, link, machines.ranks, Overlap::full);
  for (const std::string& line :
       scale_report(*memory_, traffic, time, machine, link, machines.ranks, tokens))
    log::info("{}", line);
}

}  // namespace

void plan_on_paper(const recipe::Recipe& recipe, const PaperMachines& machines) {
  if (machines.gpu.empty() && !machines.link.empty())
    refuse("--link: it says how fast GPUs exchange; name them with --gpu");
  PaperMachines known = machines;
  if (known.link.empty()) known.link = "nvlink";
  if (!known.gpu.empty()) link_named(known.link, machine_named(known.gpu), known.ranks);
  const auto ranks = planned_ranks(known.ranks);
  TrainRun run(recipe, "", *ranks);
  run.dry_run();
  run.describe_scale(known);
}

Exit train(const recipe::Recipe& recipe, DryRun dry_run, const std::string& command,
           RunHealth& health) {
  // What all ranks would say the first says.
  if (health.ranks().rank() > 0) spdlog::set_level(spdlog::level::off);
  if (health.ranks().size() > 1 && recipe.backend == recipe::Backend::cuda)
    refuse("backend: cuda: several ranks train on the processor only; use auto or cpu");
  TrainRun run(recipe, command, health.ranks());
  if (dry_run == DryRun::yes) {
    run.dry_run();
    return Exit::ok;
  }
  return run.run(health);
}

}  // namespace qat
