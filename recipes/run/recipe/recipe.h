// The typed recipe: what a YAML file says, checked, with every default filled in. The members are
// named after the recipe's keys (train.steps is recipe.train.steps) and their initialisers are the
// defaults; key, range, help and echo stand in one row each of field_table.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/quant_spec.h"
#include "kernels/view.h"

namespace qat::recipe {

enum class Backend { automatic, cpu, cuda };
enum class DataFormat { by_extension, text, prompt_completion, messages };
enum class Rounding { nearest, stochastic, lsq, ggml };
enum class ScaleInit { rule, lsq };
enum class RotationKind { none, hadamard };
enum class ActivationPer { token, tensor, group };
enum class KvType { none, q8_0, q4_0, int8, int4 };
enum class KvPer { token, head, group };
enum class Offset { zero_point, minimum };
enum class TableGrid { none, q8_0, q6_k };
enum class SymmetricRange { strict, full, stretched };
enum class CalibrationRange { min_max, percentile, mse };
enum class EnableOrder { front_to_back, back_to_front, sensitivity };
enum class ScheduleKind { cosine, linear, wsd, constant };
enum class OptimizerKind { adamw };
enum class MasterWeights { fp32, bf16_stochastic };
enum class RecomputePolicy { off, cheap, block };
enum class OnSpike { log, skip, rollback };
enum class Metric {
  perplexity,
  agreement,
  generation,
  hellaswag,
  arc_easy,
  arc_challenge,
  piqa,
  openbookqa,
  winogrande,
  lambada,
  gsm8k,
  passkey
};
/// Measured on rows of evaluate.task_data.
constexpr bool is_task(Metric metric) {
  return metric >= Metric::hellaswag;
}
enum class ExportFormat { hf, hf_master, compressed_tensors, gguf, gptq, awq, peft };
enum class AdapterChoice { none, lora, dora };
enum class BaseChoice { none, bf16, int8, nf4, fp4 };
enum class AdapterStart { none, path };
enum class SmoothMode { off, fixed, search };
enum class SmoothFold { norm, up_proj, v_proj };
enum class SolverKind { rtn, gptq, awq };
enum class ActOrder { none, fixed, group };

/// A key that is one of a few words or a path; `path` is set only when the word is E::path.
template <class E>
struct WordOrPath {
  E word{};
  std::string path;
  friend bool operator==(const WordOrPath&, const WordOrPath&) = default;
};
enum class ModelOrigin { path, scratch };
enum class TeacherKind { none, self, path };
enum class ResumeKind { automatic, never, automatic_or_scratch, path };
enum class CacheKind { run, off, path };
enum class TemplateKind { model, path };
enum class ExamplesKind { task, path };

/// Layers first..last, both included, counted from 0.
struct LayerRange {
  int64_t first = 0, last = 0;
  friend bool operator==(const LayerRange&, const LayerRange&) = default;
};

/// Where the model comes from; everything but `from` describes a model made from scratch.
struct ModelOptions {
  WordOrPath<ModelOrigin> from;
  std::string tokenizer;  ///< directory or file with a tokenizer; its size is the vocabulary
  int64_t hidden_size = 0, intermediate_size = 0, num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  ///< filled in: equals num_attention_heads when left out
  int64_t head_dim = 0;             ///< filled in: hidden_size / num_attention_heads when left out
  int64_t max_position_embeddings = 2048;
  double rope_theta = 10000.0, rms_norm_eps = 1e-5;
  bool tie_word_embeddings = true;
  double initializer_range = 0.02;

  bool scratch() const { return from.word == ModelOrigin::scratch; }
};

struct DataOptions {
  std::vector<std::string> train, eval;  ///< paths; globs are expanded by the data part
  DataFormat format = DataFormat::by_extension;
  int64_t sequence = 512;  ///< tokens a sequence
  bool packing = true, shuffle = true;
  std::string text_field = "text", prompt_field = "prompt", completion_field = "completion";
  std::string messages_field = "messages";
  std::string separator;                   ///< between prompt and completion
  WordOrPath<TemplateKind> chat_template;  ///< of messages records
  WordOrPath<CacheKind> cache;
};

/// How weights are quantized; spec() is meaningful when bits is set.
struct WeightQuant {
  std::optional<int64_t> bits;  ///< none: weights stay as they are
  Form form = Form::integer;
  Per per = Per::row;
  int64_t group = 0;
  bool symmetric = true;
  Offset offset = Offset::zero_point;  ///< when not symmetric
  SymmetricRange range = SymmetricRange::strict;
  Rounding rounding = Rounding::nearest;
  ScaleRule scale = ScaleRule::amax;
  ScaleType scale_type = ScaleType::f32;
  ScaleInit scale_init = ScaleInit::rule;  ///< with Rounding::lsq
  double scale_lr = 1e-3;                  ///< with Rounding::lsq, in sizes of the scales
  /// The group was written in the recipe, not taken from the preset: a matrix it does not divide is
  /// refused instead of falling back.
  bool group_by_hand = false;
  /// What becomes of a matrix whose rows the preset's groups do not divide; goes with the preset:
  /// int8 a channel; nothing is quantized; the largest smaller group (64, 32) that divides it, or
  /// that divides all of them (for formats with one group size), else a scale a channel; what
  /// llama.cpp's quantizer takes for rows that super-blocks do not divide: Q5_0 for Q4_K, Q8_0 for
  /// Q6_K, nothing where 32 does not divide them.
  enum class Fallback {
    int8_rows,
    unquantized,
    smaller_group,
    smaller_group_for_all,
    ggml
  } fallback = Fallback::int8_rows;

  QuantSpec spec() const;
  /// Whether a scale may be below 0.
  bool negative_scales() const {
    return rounding != Rounding::lsq &&
           (scale == ScaleRule::signed_max || scale == ScaleRule::mse_signed);
  }
};

/// How the inputs of quantized matrices are quantized; spec() is meaningful when bits is set.
struct ActivationQuant {
  std::optional<int64_t> bits;  ///< none: activations stay as they are
  Form form = Form::integer;    ///< or e4m3
  ActivationPer per = ActivationPer::token;
  int64_t group = 0;
  bool dynamic = true;  ///< false: the range comes from calibration (quantize.calibrate)
  bool symmetric = true;
  SymmetricRange range = SymmetricRange::strict;
  ScaleRule scale = ScaleRule::amax;
  ScaleType scale_type = ScaleType::f32;
  Division divide = Division::stored;

  QuantSpec spec() const;
};

/// How keys (after RoPE) and values are kept; spec() is meaningful unless type is none.
struct KvCacheQuant {
  KvType type = KvType::none;  ///< gives the others their values
  int64_t bits = 8;            ///< 8 or 4
  KvPer per = KvPer::head;
  int64_t group = 0;
  bool symmetric = true;
  SymmetricRange range = SymmetricRange::strict;
  ScaleRule scale = ScaleRule::amax;
  ScaleType scale_type = ScaleType::f16;

  bool any() const { return type != KvType::none; }
  QuantSpec spec(int64_t head_dim) const;
};
/// The grid of a type: llama.cpp's q8_0 and q4_0, int8 a head, int4 with zero points in groups
/// of 32.
KvCacheQuant kv_cache_of(KvType type);

/// The bits of the matrices that a pattern names; none leaves them as they are.
struct WidthOverride {
  std::string pattern;
  std::optional<int64_t> bits;
  friend bool operator==(const WidthOverride&, const WidthOverride&) = default;
};

/// Bits of each matrix by what it does to the model alone, within a size.
struct AutoBits {
  std::optional<double> budget;  ///< bits a quantized weight, scales counted; none: off
  std::vector<int64_t> candidates = {4, 8};
  int64_t samples = 4;  ///< sequences of data.train

  bool any() const { return budget.has_value(); }
};

struct CalibrateOptions {
  int64_t samples = 128;  ///< sequences of data.train
  CalibrationRange range = CalibrationRange::min_max;
  double percentile = 99.9;
};

/// SmoothQuant's migration strength.
struct SmoothAlpha {
  SmoothMode mode = SmoothMode::off;
  double value = 0.5;  ///< when mode is fixed
  friend bool operator==(const SmoothAlpha&, const SmoothAlpha&) = default;
};
struct SmoothOptions {
  SmoothAlpha alpha;
  std::vector<SmoothFold> fold = {SmoothFold::norm, SmoothFold::up_proj, SmoothFold::v_proj};
};

/// Rotations that spread outliers over all columns.
struct RotationOptions {
  RotationKind kind = RotationKind::none;
  bool online = true;  ///< also where nothing can be folded: before down_proj, on cached keys

  bool any() const { return kind != RotationKind::none; }
};

/// How the codes of weights are chosen before training.
struct SolverOptions {
  SolverKind kind = SolverKind::rtn;
  double dampening_frac = 0.01;
  int64_t block_size = 128;
  ActOrder actorder = ActOrder::none;
  int64_t n_grid = 20;
  bool duo_scaling = true, clip = true;
};

struct QuantizeOptions {
  std::string preset = "none";
  WeightQuant weights;
  ActivationQuant activations;
  KvCacheQuant kv_cache;
  std::vector<std::string> include = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                      "gate_proj", "up_proj", "down_proj"};
  std::vector<std::string> exclude;
  std::vector<LayerRange> layers;        ///< empty: all
  std::vector<WidthOverride> overrides;  ///< a later one wins
  TableGrid embeddings = TableGrid::none, head = TableGrid::none;
  AutoBits auto_bits;
  CalibrateOptions calibrate;
  SmoothOptions smooth;
  RotationOptions rotation;
  SolverOptions solver;

  bool solved() const { return weights.bits && solver.kind != SolverKind::rtn; }
  /// Whether weights or what they multiply are on a grid.
  bool matrices() const { return weights.bits || activations.bits || tables(); }
  bool tables() const { return embeddings != TableGrid::none || head != TableGrid::none; }
  bool any() const { return matrices() || kv_cache.any(); }
};

/// A frozen model and the adapters that are trained on it.
struct AdapterOptions {
  AdapterChoice kind = AdapterChoice::none;
  int64_t rank = 8;
  double alpha = 8.0, dropout = 0.0;
  bool use_rslora = false;
  std::vector<std::string> target_modules = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};
  BaseChoice base = BaseChoice::bf16;  ///< filled in: none where dtype is fp32
  bool double_quant = true;
  DType dtype = DType::f32;       ///< of the factors
  WordOrPath<AdapterStart> from;  ///< a PEFT directory to go on from

  bool any() const { return kind != AdapterChoice::none; }
  bool four_bit() const { return base == BaseChoice::nf4 || base == BaseChoice::fp4; }
};

struct EnableOptions {
  EnableOrder order = EnableOrder::front_to_back;
  int64_t layers = 0;  ///< layers enabled at a stage; 0: all at once
  int64_t every = 1;   ///< steps between stages
  int64_t rewarm = 0;  ///< steps over which the learning rate warms up again at each stage
};

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  int64_t warmup = 0;  ///< steps
  double final = 0.1;  ///< share of train.learning_rate reached at the last step
  int64_t decay = 0;   ///< steps of wsd's last part; filled in: a fifth of the steps
};

struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::adamw;
  int64_t state_bits = 32;  ///< 32 or 8
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;
  MasterWeights master = MasterWeights::fp32;
};

struct TrainOptions {
  int64_t steps = 0;
  int64_t batch = 8;        ///< sequences a step over all ranks
  int64_t micro_batch = 0;  ///< sequences per rank at a time; 0: the rank's whole share of batch
  int64_t zero_stage = 0;   ///< what is split over the ranks; see ZeroStage
  int64_t compare_ranks = 100;         ///< steps between comparisons of the ranks' weights; 0: none
  double watchdog = 1800;              ///< seconds without progress of a rank; 0: none
  std::vector<std::string> trainable;  ///< parameters that are trained; empty: all
  int64_t warmup_bf16 = 0;             ///< steps before any fake quantization
  EnableOptions enable;
  double learning_rate = 2e-5;
  ScheduleOptions schedule;
  OptimizerOptions optimizer;
  double clip_grad_norm = 1.0;  ///< 0: no clipping
  RecomputePolicy recompute = RecomputePolicy::cheap;
  int64_t max_bad_steps = 10;
  double spike_z = 8.0;  ///< standard deviations above the recent mean; 0: no watch
  OnSpike on_spike = OnSpike::log;
  bool fuse = true;
  int64_t log_every = 1;
};

struct DistillOptions {
  WordOrPath<TeacherKind> teacher;
  double kl = 0.0, cross_entropy = 1.0;  ///< weights in the loss; filled in: 1 and 0 with a teacher
  double temperature = 1.0;
};

struct CheckpointOptions {
  int64_t every = 100;  ///< steps; 0: only when stopped and at the end
  int64_t keep = 2;
  int64_t max_failed_saves = 3;
  bool async = false;
  double time_limit = 0;  ///< minutes from the start of the command; 0: none
};

struct EvaluateOptions {
  std::vector<Metric> metrics;  ///< filled in: perplexity when data.eval is given
  int64_t context = 0;          ///< tokens a window; filled in: data.sequence
  int64_t max_windows = 0;      ///< 0: all
  std::string task_data;        ///< folder with TASK.jsonl
  int64_t task_rows = 0;        ///< of each task; 0: all
  int64_t shots = 5;            ///< solved examples before a question of gsm8k
  WordOrPath<ExamplesKind> examples;
  int64_t generated_tokens = 64;
  DType dtype = DType::f32;

  bool has(Metric metric) const;
  bool has_task() const;
};

struct GenerateOptions {
  std::vector<std::string> prompts;
  int64_t max_tokens = 64;
  double temperature = 0.0;  ///< 0: the likeliest token each time
};

struct Recipe {
  ModelOptions model;
  std::string out;
  uint64_t seed = 1;
  Backend backend = Backend::automatic;
  int64_t threads = 0;  ///< 0: all cores this process may use
  DType dtype = DType::bf16;
  DataOptions data;
  QuantizeOptions quantize;
  AdapterOptions adapter;
  TrainOptions train;
  DistillOptions distill;
  CheckpointOptions checkpoint;
  WordOrPath<ResumeKind> resume;
  std::vector<std::string> resume_allow;
  EvaluateOptions evaluate;
  GenerateOptions generate;
  std::vector<ExportFormat> exports;    ///< the key is `export`
  std::string max_shard_size = "5GB";   ///< of a safetensors file (bytes_of_size)
  std::string split_max_size = "none";  ///< of a GGUF file; none: one file

  /// Lines for the log: legal, but perhaps not what was meant.
  std::vector<std::string> warnings;
};

/// A key set outside the file, named `origin` in messages. A literal is text as it stands; else the
/// value is YAML.
struct RecipeOverride {
  enum class Kind { yaml, literal };
  std::string key, value, origin;
  Kind kind = Kind::yaml;
};

/// The argument of one --set, "key=value". Refuses one without "=".
RecipeOverride set_option(const std::string& argument);
/// A command-line option of its own that stands for a key: literal_option("--out", "out",
/// "runs/a").
RecipeOverride literal_option(const std::string& option, const std::string& key,
                              const std::string& value);

/// Reads a recipe, then the overrides in order (a later one wins), fills every default, checks.
/// Refuses bad input with one line: file:line: key: expected, got, what to do.
/// Paths are relative to the current directory; `~`, `$NAME` and `${NAME}` are expanded in them.
Recipe load_recipe(const std::string& path, const std::vector<RecipeOverride>& overrides = {});
/// The same for text already in memory; `name` stands for the file in messages.
Recipe parse_recipe(const std::string& text, const std::string& name,
                    const std::vector<RecipeOverride>& overrides = {});

/// The resolved recipe as YAML with every key; reading it back gives the same recipe.
std::string to_yaml(const Recipe& recipe);
/// "500MB", "5GB" (powers of ten, as transformers counts) in bytes; nothing if it is no size.
std::optional<uint64_t> bytes_of_size(const std::string& text);
/// What is quantized how, for the log: "w8a8: int8 weights, ...", with every key of the preset that
/// the recipe changed: "w8a8 with weights.bits 4: ...".
std::string scheme_text(const QuantizeOptions& quantize);
/// Which target's preset a short name such as w8a8 stands for, and where the two differ; "" for any
/// other preset.
std::string alias_text(const QuantizeOptions& quantize);
/// 16 hex digits over the keys that decide the numbers of a run.
std::string recipe_hash(const Recipe& recipe);

struct RecipeDifference {
  std::string key, before, after;
};
/// The keys that decide the numbers and differ, without those of `allowed` (a key, or a section for
/// all below it).
std::vector<RecipeDifference> recipe_differences(const Recipe& before, const Recipe& after,
                                                 const std::vector<std::string>& allowed);
/// Refuses to go on with a run whose recipe differs in a key that matters and that
/// after.resume_allow does not name. `run` names the run in the message.
void check_resumable(const Recipe& before, const Recipe& after, const std::string& run);

/// Every key with its values, default and meaning, for a terminal.
std::string recipe_help();
/// The same as recipes/README.md.
std::string recipe_reference();
/// The same as a JSON schema for editors (recipes/recipe.schema.json).
std::string recipe_schema();

}  // namespace qat::recipe
