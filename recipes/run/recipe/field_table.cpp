// The one list of what a recipe may say. A row gives the member (its key is the same path), what it
// takes, whether it decides the numbers of a run, and one line of help; defaults are the members'.
#include <algorithm>
#include <utility>

#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/field_values.h"
#include "recipes/run/recipe/presets.h"

namespace qat::recipe {
namespace {

struct Takes {
  FieldKind kind;
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_excluded = false;
  std::vector<int64_t> choices = {};
  std::vector<std::string> words = {};
  Blank blank = Blank::refused;
};
Takes whole(double low, double high) {
  return {FieldKind::whole, low, high};
}
Takes one_of(std::vector<int64_t> choices) {
  const auto [low, high] = std::minmax_element(choices.begin(), choices.end());
  return {FieldKind::whole, double(*low), double(*high), false, choices};
}
Takes number(double low, double high) {
  return {FieldKind::number, low, high};
}
Takes number_above(double low, double high) {
  return {FieldKind::number, low, high, true};
}
Takes word() {
  return {FieldKind::word};
}
Takes word_from(std::vector<std::string> words) {
  Takes takes{FieldKind::word};
  takes.words = std::move(words);
  return takes;
}
Takes toggle() {
  return {FieldKind::toggle};
}
Takes text() {
  return {FieldKind::text};
}
Takes text_or_nothing() {
  Takes takes{FieldKind::text};
  takes.blank = Blank::allowed;
  return takes;
}
Takes path() {
  return {FieldKind::path};
}
Takes layer_ranges() {
  return {FieldKind::layer_range};
}
Takes widths() {
  return {FieldKind::width};
}
Takes keys() {
  return {FieldKind::key};
}

/// What only some rows have.
struct Extra {
  Need need = Need::optional;
  FieldCondition when = {};
  std::string default_note = {};
  std::vector<std::string> nicknames = {};
  std::string also = {};
};

template <class T>
Field row(const char* key, FieldValue (*get)(const Recipe&),
          void (*set)(Recipe&, const FieldValue&), const Takes& takes, Matters matters,
          const char* help, Extra extra = {}) {
  Field field;
  field.key = key;
  field.kind = takes.kind;
  field.words = takes.words;
  for (auto& word : field_values::Convert<T>::words(Spelling::written)) field.words.push_back(word);
  field.other_words = field_values::Convert<T>::words(Spelling::other);
  field.choices = takes.choices;
  field.low = takes.low;
  field.high = takes.high;
  field.low_excluded = takes.low_excluded;
  field.matters = matters;
  field.need = extra.need;
  field.blank = takes.blank;
  field.help = help;
  field.default_note = extra.default_note;
  field.nicknames = extra.nicknames;
  field.also = extra.also;
  field.when = extra.when;
  field.get = get;
  field.set = set;
  const Recipe defaults;
  const FieldValue initial = get(defaults);
  if (std::holds_alternative<std::vector<std::string>>(initial)) field.arity = Arity::list;
  return field;
}

// A member gives its type, its key and its accessors, so that a key cannot drift from its member.
#define QAT_ROW(member, ...) QAT_ROW_AS(#member, member, __VA_ARGS__)
#define QAT_ROW_AS(key, member, ...)                                                            \
  row<std::remove_reference_t<decltype((std::declval<Recipe&>().member))>>(                     \
      key,                                                                                      \
      [](const Recipe& r) {                                                                     \
        return field_values::Convert<std::remove_cvref_t<decltype((r.member))>>::get(r.member); \
      },                                                                                        \
      [](Recipe& r, const FieldValue& value) {                                                  \
        field_values::Convert<std::remove_cvref_t<decltype((r.member))>>::set(r.member, value); \
      },                                                                                        \
      __VA_ARGS__)

constexpr double kMany = 1e9;
constexpr double kWide = 1 << 24;

const FieldCondition kSmooth = {
    "quantize.smooth.alpha is not none", {"quantize.smooth.alpha"}, [](const Recipe& r) {
      return r.quantize.smooth.alpha.mode != SmoothMode::off;
    }};
const FieldCondition kRotation = {"quantize.rotation.kind is not none",
                                  {"quantize.rotation.kind"},
                                  [](const Recipe& r) { return r.quantize.rotation.any(); }};
const FieldCondition kScratch = {
    "model.from is scratch", {"model.from"}, [](const Recipe& r) { return r.model.scratch(); }};
const FieldCondition kWeights = {
    "quantize.weights.bits is a number",
    {"quantize.weights.bits", "quantize.preset"},
    [](const Recipe& r) { return r.quantize.weights.bits.has_value(); }};
const FieldCondition kAutoBits = {"quantize.auto_bits.budget is a number",
                                  {"quantize.auto_bits.budget", "quantize.preset"},
                                  [](const Recipe& r) { return r.quantize.auto_bits.any(); }};
const FieldCondition kWeightGroup = {
    "quantize.weights.per is group and quantize.weights.bits a number",
    {"quantize.weights.bits", "quantize.weights.per", "quantize.preset"},
    [](const Recipe& r) {
      return r.quantize.weights.bits && r.quantize.weights.per == Per::group;
    }};
const FieldCondition kSymmetricWeights = {
    "quantize.weights.symmetric is true and quantize.weights.bits a number",
    {"quantize.weights.bits", "quantize.weights.symmetric", "quantize.preset"},
    [](const Recipe& r) { return r.quantize.weights.bits && r.quantize.weights.symmetric; }};
const FieldCondition kTrainedScales = {
    "quantize.weights.rounding is lsq",
    {"quantize.weights.rounding", "quantize.weights.bits", "quantize.preset"},
    [](const Recipe& r) {
      return r.quantize.weights.bits && r.quantize.weights.rounding == Rounding::lsq;
    }};
const FieldCondition kActivations = {
    "quantize.activations.bits is a number",
    {"quantize.activations.bits", "quantize.preset"},
    [](const Recipe& r) { return r.quantize.activations.bits.has_value(); }};
const FieldCondition kSymmetricActivations = {
    "quantize.activations.symmetric is true and quantize.activations.bits a number",
    {"quantize.activations.bits", "quantize.activations.symmetric", "quantize.preset"},
    [](const Recipe& r) {
      return r.quantize.activations.bits && r.quantize.activations.symmetric;
    }};
const FieldCondition kActivationGroup = {
    "quantize.activations.per is group and quantize.activations.bits a number",
    {"quantize.activations.bits", "quantize.activations.per", "quantize.preset"},
    [](const Recipe& r) {
      return r.quantize.activations.bits && r.quantize.activations.per == ActivationPer::group;
    }};
const FieldCondition kAsymmetricWeights = {
    "quantize.weights.symmetric is false and quantize.weights.bits a number",
    {"quantize.weights.bits", "quantize.weights.symmetric", "quantize.preset"},
    [](const Recipe& r) { return r.quantize.weights.bits && !r.quantize.weights.symmetric; }};
const FieldCondition kKvCache = {"quantize.kv_cache.type is not none",
                                 {"quantize.kv_cache.type"},
                                 [](const Recipe& r) { return r.quantize.kv_cache.any(); }};
const FieldCondition kKvGroup = {
    "quantize.kv_cache.per is group and quantize.kv_cache.type not none",
    {"quantize.kv_cache.per", "quantize.kv_cache.type"},
    [](const Recipe& r) {
      return r.quantize.kv_cache.any() && r.quantize.kv_cache.per == KvPer::group;
    }};
const FieldCondition kSymmetricKv = {
    "quantize.kv_cache.symmetric is true and quantize.kv_cache.type not none",
    {"quantize.kv_cache.symmetric", "quantize.kv_cache.type"},
    [](const Recipe& r) { return r.quantize.kv_cache.any() && r.quantize.kv_cache.symmetric; }};
const FieldCondition kPercentile = {
    "quantize.calibrate.range is percentile", {"quantize.calibrate.range"}, [](const Recipe& r) {
      return r.quantize.calibrate.range == CalibrationRange::percentile;
    }};
const FieldCondition kGptq = {"quantize.solver.kind is gptq",
                              {"quantize.solver.kind", "quantize.weights.bits"},
                              [](const Recipe& r) {
                                return r.quantize.solved() &&
                                       r.quantize.solver.kind == SolverKind::gptq;
                              }};
const FieldCondition kAwq = {"quantize.solver.kind is awq",
                             {"quantize.solver.kind", "quantize.weights.bits"},
                             [](const Recipe& r) {
                               return r.quantize.solved() &&
                                      r.quantize.solver.kind == SolverKind::awq;
                             }};
const FieldCondition kAdapter = {"adapter.kind is lora or dora",
                                 {"adapter.kind"},
                                 [](const Recipe& r) { return r.adapter.any(); }};
const FieldCondition kFreshAdapter = {
    "adapter.kind is lora or dora and adapter.from is none",
    {"adapter.kind", "adapter.from"},
    [](const Recipe& r) { return r.adapter.any() && r.adapter.from.word == AdapterStart::none; }};
const FieldCondition kFourBitBase = {
    "adapter.base is nf4 or fp4", {"adapter.base", "adapter.kind"}, [](const Recipe& r) {
      return r.adapter.any() && r.adapter.four_bit();
    }};
const FieldCondition kWholeModel = {"adapter.kind is none (adapter.dtype is the type of adapters)",
                                    {"adapter.kind"},
                                    [](const Recipe& r) { return !r.adapter.any(); }};
const FieldCondition kDecays = {
    "train.schedule.kind is not constant", {"train.schedule.kind"}, [](const Recipe& r) {
      return r.train.schedule.kind != ScheduleKind::constant;
    }};
const FieldCondition kTasks = {"evaluate lists a task", {"evaluate.metrics"}, [](const Recipe& r) {
                                 return r.evaluate.has_task();
                               }};
const FieldCondition kChains = {"evaluate lists gsm8k", {"evaluate.metrics"}, [](const Recipe& r) {
                                  return r.evaluate.has(Metric::gsm8k);
                                }};
const FieldCondition kGeneration = {
    "evaluate lists generation", {"evaluate.metrics"}, [](const Recipe& r) {
      return r.evaluate.has(Metric::generation);
    }};
const FieldCondition kWsd = {
    "train.schedule.kind is wsd", {"train.schedule.kind"}, [](const Recipe& r) {
      return r.train.schedule.kind == ScheduleKind::wsd;
    }};

void add_run_rows(std::vector<Field>& rows) {
  rows.push_back(QAT_ROW(
      model.from, path(), Matters::yes,
      "Hugging Face directory, GGUF file or run directory (the high-precision weights of its "
      "newest "
      "checkpoint); scratch makes a new model from the keys below.",
      {.need = Need::required, .nicknames = {"model_name_or_path", "model_path", "model_name"}}));
  rows.push_back(QAT_ROW(model.tokenizer, path(), Matters::yes,
                         "Directory or file with the tokenizer; its size is the vocabulary.",
                         {.need = Need::required, .when = kScratch}));
  rows.push_back(QAT_ROW(model.hidden_size, whole(1, kWide), Matters::yes,
                         "Width of the residual stream.",
                         {.need = Need::required, .when = kScratch, .nicknames = {"dim"}}));
  rows.push_back(QAT_ROW(model.intermediate_size, whole(1, kWide), Matters::yes,
                         "Width of the feed-forward part.",
                         {.need = Need::required, .when = kScratch, .nicknames = {"ffn"}}));
  rows.push_back(QAT_ROW(model.num_hidden_layers, whole(1, 10000), Matters::yes, "Decoder layers.",
                         {.need = Need::required, .when = kScratch, .nicknames = {"num_layers"}}));
  rows.push_back(QAT_ROW(model.num_attention_heads, whole(1, kWide), Matters::yes, "Query heads.",
                         {.need = Need::required, .when = kScratch, .nicknames = {"num_heads"}}));
  rows.push_back(QAT_ROW(model.num_key_value_heads, whole(1, kWide), Matters::yes,
                         "Key and value heads; divides the query heads.",
                         {.when = kScratch, .default_note = "model.num_attention_heads"}));
  rows.push_back(
      QAT_ROW(model.head_dim, whole(1, kWide), Matters::yes, "Width of a head; even.",
              {.when = kScratch, .default_note = "model.hidden_size / model.num_attention_heads"}));
  rows.push_back(QAT_ROW(model.max_position_embeddings, whole(1, kMany), Matters::yes,
                         "Longest sequence the model is meant for.", {.when = kScratch}));
  rows.push_back(QAT_ROW(model.rope_theta, number_above(0, 1e12), Matters::yes,
                         "Base of the rotary position angles.", {.when = kScratch}));
  rows.push_back(QAT_ROW(model.rms_norm_eps, number_above(0, 1), Matters::yes,
                         "Added to the mean square inside each norm.", {.when = kScratch}));
  rows.push_back(QAT_ROW(model.tie_word_embeddings, toggle(), Matters::yes,
                         "The output head shares the embedding's weights.", {.when = kScratch}));
  rows.push_back(QAT_ROW(model.initializer_range, number_above(0, 10), Matters::yes,
                         "Standard deviation of the first weights.", {.when = kScratch}));

  rows.push_back(QAT_ROW(out, path(), Matters::no,
                         "Directory the run writes: checkpoints, metrics, exports.",
                         {.need = Need::required, .nicknames = {"output_dir", "output"}}));
  rows.push_back(QAT_ROW(seed, whole(0, 9007199254740992.0), Matters::yes,
                         "Decides the order of the data and every random number."));
  rows.push_back(QAT_ROW(backend, word(), Matters::yes,
                         "Where to compute; auto takes a CUDA device if there is one.",
                         {.nicknames = {"device"}}));
  rows.push_back(QAT_ROW(threads, whole(0, 4096), Matters::no,
                         "CPU threads; 0 takes every core this process may use. The results do not "
                         "depend on it.",
                         {.nicknames = {"num_threads", "workers"}}));
  rows.push_back(QAT_ROW(dtype, word(), Matters::yes,
                         "Type activations are computed and stored in; sums are fp32 always.",
                         {.nicknames = {"precision", "torch_dtype"}}));
}

void add_data_rows(std::vector<Field>& rows) {
  rows.push_back(QAT_ROW(data.train, path(), Matters::yes,
                         "Training files: .txt, .jsonl or token files (.bin); * and ? match names.",
                         {.nicknames = {"train_file", "dataset"}}));
  rows.push_back(QAT_ROW(data.eval, path(), Matters::no,
                         "Held-out files for the perplexity table; every token of them counts.",
                         {.nicknames = {"valid", "validation", "test"}}));
  rows.push_back(QAT_ROW(
      data.format, word(), Matters::yes,
      "What a record of a training file is; auto goes by the file's extension and by which of the "
      "fields below its first record has. Of prompt_completion and messages only the completion "
      "and the assistant's answers are trained on."));
  rows.push_back(QAT_ROW(data.sequence, whole(2, kWide), Matters::yes,
                         "Tokens a training sequence.",
                         {.nicknames = {"seq_len", "max_length", "sequence_length", "context"}}));
  rows.push_back(QAT_ROW(data.packing, toggle(), Matters::yes,
                         "Several documents share a sequence, without seeing each other; off: one "
                         "document a sequence."));
  rows.push_back(
      QAT_ROW(data.shuffle, toggle(), Matters::yes,
              "A new order each epoch, decided by the seed; off: the order of the files."));
  rows.push_back(QAT_ROW(data.text_field, text(), Matters::yes, "Field of a text record."));
  rows.push_back(QAT_ROW(data.prompt_field, text(), Matters::yes,
                         "Field of a prompt_completion record that is read but not trained on."));
  rows.push_back(QAT_ROW(data.completion_field, text(), Matters::yes,
                         "Field of a prompt_completion record that is trained on."));
  rows.push_back(QAT_ROW(data.messages_field, text(), Matters::yes,
                         "Field of a chat record that lists its messages."));
  rows.push_back(QAT_ROW(data.separator, text_or_nothing(), Matters::yes,
                         "Text put between prompt and completion; not trained on.",
                         {.default_note = "empty"}));
  rows.push_back(QAT_ROW(data.chat_template, path(), Matters::yes,
                         "Jinja file that turns messages into text, written into the exports too; "
                         "model takes the model's own."));
  rows.push_back(QAT_ROW(data.cache, path(), Matters::no,
                         "Directory of tokenized files, to start faster next time; run keeps them "
                         "in the run directory."));
}

void add_quantize_rows(std::vector<Field>& rows) {
  rows.push_back(QAT_ROW(quantize.preset, word_from(preset_names()), Matters::yes,
                         "A deployment target's scheme; keys below change single fields of it.",
                         {.nicknames = {"scheme"}}));
  const std::string preset = "the preset's";
  rows.push_back(QAT_ROW(quantize.weights.bits, whole(2, 8), Matters::yes,
                         "Bits of a weight code; none leaves weights as they are.",
                         {.default_note = preset, .nicknames = {"w_bits", "num_bits"}}));
  rows.push_back(QAT_ROW(
      quantize.weights.form, word(), Matters::yes,
      "What a code is: an integer; e4m3, an 8-bit float; q4_k and q6_k, integers of 4 and 6 bits "
      "whose scales are small multiples of one number a super-block of 256 (GGUF), which decides "
      "the other keys of the grid.",
      {.when = kWeights, .default_note = preset, .nicknames = {"type", "format"}}));
  rows.push_back(
      QAT_ROW(quantize.weights.per, word(), Matters::yes,
              "What shares a scale: an output channel, a group within one, the matrix.",
              {.when = kWeights, .default_note = "the preset's; group if group is set"}));
  rows.push_back(QAT_ROW(
      quantize.weights.group, whole(2, kWide), Matters::yes,
      "Weights a group; one written here must divide every matrix's rows, a "
      "preset's falls back where it does not.",
      {.when = kWeightGroup, .default_note = preset, .nicknames = {"group_size", "groupsize"}}));
  rows.push_back(QAT_ROW(quantize.weights.symmetric, toggle(), Matters::yes,
                         "Zero point 0; off: a zero point a scale.",
                         {.when = kWeights, .default_note = preset, .nicknames = {"sym"}}));
  rows.push_back(QAT_ROW(quantize.weights.offset, word(), Matters::yes,
                         "Where codes count from: a zero_point that is itself a code, or the "
                         "group's minimum as a real number (GGUF Q4_1).",
                         {.when = kAsymmetricWeights, .default_note = preset}));
  rows.push_back(QAT_ROW(quantize.weights.range, word(), Matters::yes,
                         "Codes of b bits: strict is -(2^(b-1)-1) to 2^(b-1)-1, full has one more "
                         "below; stretched has those of full half a step higher (of 2 bits -1.5, "
                         "-0.5, 0.5, 1.5), which few bits want (ParetoQ) and no file holds.",
                         {.when = kSymmetricWeights, .default_note = preset}));
  rows.push_back(
      QAT_ROW(quantize.weights.rounding, word(), Matters::yes,
              "nearest: half to even, trained with the straight-through gradient; stochastic: up "
              "or down at random by how near each code is, anew each step of training (evaluated "
              "and exported to nearest); lsq: the scales are trained too, by LSQ's gradient (zero "
              "points stay as they start); ggml: the "
              "codes llama.cpp's own quantizer chooses, where train.steps is 0.",
              {.when = kWeights, .default_note = preset}));
  rows.push_back(
      QAT_ROW(quantize.weights.scale, word(), Matters::yes,
              "Rule for the scale: amax max|x|/qmax; half_range max|x|/((qmax-qmin)/2); "
              "no_clip the smallest that clips nothing; signed_max m/qmin, m of largest "
              "magnitude; min_max (max-min)/(qmax-qmin), no_clip if symmetric; mse least "
              "squared error; mse_signed the same, negative where that helps (GGUF).",
              {.when = kWeights,
               .default_note = "the preset's; min_max if symmetric is "
                               "off"}));
  rows.push_back(QAT_ROW(quantize.weights.scale_type, word(), Matters::yes,
                         "Type the scale is rounded to before codes are chosen; portable is exact "
                         "in fp16 and bf16.",
                         {.when = kWeights, .default_note = preset}));
  rows.push_back(QAT_ROW(quantize.weights.scale_init, word(), Matters::yes,
                         "What a trained scale starts from when its layer joins: the rule of "
                         "quantize.weights.scale, or LSQ's 2 mean|w| / sqrt(qmax).",
                         {.when = kTrainedScales}));
  rows.push_back(QAT_ROW(quantize.weights.scale_lr, number(0, 1), Matters::yes,
                         "Learning rate of trained scales at the height of train.schedule, in "
                         "sizes of the scales: a step moves one by about this share of the RMS of "
                         "its matrix's. No weight decay; 0 keeps them where they started.",
                         {.when = kTrainedScales, .nicknames = {"quant_lr", "step_size_lr"}}));

  rows.push_back(QAT_ROW(quantize.activations.bits, whole(2, 8), Matters::yes,
                         "Bits of an activation code; none leaves activations as they are.",
                         {.default_note = preset, .nicknames = {"a_bits", "num_bits"}}));
  rows.push_back(QAT_ROW(quantize.activations.form, word(), Matters::yes,
                         "What a code is: an integer, or e4m3, an 8-bit float.",
                         {.when = kActivations, .default_note = preset}));
  rows.push_back(
      QAT_ROW(quantize.activations.per, word(), Matters::yes,
              "What shares a scale: a token, a group within one, or the whole tensor.",
              {.when = kActivations,
               .default_note = "the preset's; tensor if dynamic is off; group if group is set"}));
  rows.push_back(QAT_ROW(quantize.activations.group, whole(2, kWide), Matters::yes,
                         "Values a group; must divide the inputs of every quantized matrix.",
                         {.when = kActivationGroup, .default_note = preset}));
  rows.push_back(
      QAT_ROW(quantize.activations.dynamic, toggle(), Matters::yes,
              "Scales computed from each input as the model runs; off: from calibration.",
              {.when = kActivations, .default_note = preset}));
  rows.push_back(QAT_ROW(quantize.activations.symmetric, toggle(), Matters::yes,
                         "Zero point 0; off: a zero point a scale.",
                         {.when = kActivations, .default_note = preset, .nicknames = {"sym"}}));
  rows.push_back(QAT_ROW(quantize.activations.range, word(), Matters::yes,
                         "As quantize.weights.range; strict or full.",
                         {.when = kSymmetricActivations, .default_note = preset}));
  rows.push_back(QAT_ROW(quantize.activations.scale, word(), Matters::yes,
                         "As quantize.weights.scale.",
                         {.when = kActivations,
                          .default_note = "the preset's; min_max if symmetric "
                                          "is off"}));
  rows.push_back(QAT_ROW(quantize.activations.scale_type, word(), Matters::yes,
                         "As quantize.weights.scale_type.",
                         {.when = kActivations, .default_note = preset}));
  rows.push_back(QAT_ROW(quantize.activations.divide, word(), Matters::yes,
                         "What values are divided by: the scale as stored, or exact, before it "
                         "is rounded to scale_type (what ggml does).",
                         {.when = kActivations, .default_note = preset}));

  const std::string type = "the type's";
  rows.push_back(QAT_ROW(
      quantize.kv_cache.type, word(), Matters::yes,
      "How keys (after RoPE) and values are cached, in training too: q8_0 and q4_0 as llama.cpp's "
      "--cache-type-k and -v; int8 with a scale for each head of a token; int4 with zero points in "
      "groups of 32. The keys below change single fields of it.",
      {.nicknames = {"kv_cache_dtype", "kv_cache_scheme", "cache_type"}}));
  rows.push_back(QAT_ROW(quantize.kv_cache.bits, one_of({4, 8}), Matters::yes,
                         "Bits of a cached code; alone it stands for the type int8 or int4.",
                         {.when = kKvCache, .default_note = type}));
  rows.push_back(QAT_ROW(quantize.kv_cache.per, word(), Matters::yes,
                         "What shares a scale: a token, a head of it, a group within.",
                         {.when = kKvCache, .default_note = "the type's; group if group is set"}));
  rows.push_back(QAT_ROW(quantize.kv_cache.group, whole(2, kWide), Matters::yes,
                         "Values a group; must divide the keys of a token.",
                         {.when = kKvGroup, .default_note = type}));
  rows.push_back(QAT_ROW(quantize.kv_cache.symmetric, toggle(), Matters::yes,
                         "Zero point 0; off: a zero point a scale.",
                         {.when = kKvCache, .default_note = type, .nicknames = {"sym"}}));
  rows.push_back(QAT_ROW(quantize.kv_cache.range, word(), Matters::yes,
                         "As quantize.weights.range; strict or full.",
                         {.when = kSymmetricKv, .default_note = type}));
  rows.push_back(
      QAT_ROW(quantize.kv_cache.scale, word(), Matters::yes, "As quantize.weights.scale.",
              {.when = kKvCache, .default_note = "the type's; min_max if symmetric is off"}));
  rows.push_back(QAT_ROW(quantize.kv_cache.scale_type, word(), Matters::yes,
                         "Type the scales are cached in.",
                         {.when = kKvCache, .default_note = type}));

  rows.push_back(QAT_ROW(quantize.include, text(), Matters::yes,
                         "Matrices to quantize: names or patterns with * and ?.",
                         {.nicknames = {"targets", "modules"}}));
  rows.push_back(QAT_ROW(quantize.exclude, text(), Matters::yes,
                         "Matrices to leave out of include.", {.nicknames = {"ignore", "skip"}}));
  rows.push_back(QAT_ROW(quantize.layers, layer_ranges(), Matters::yes,
                         "Layers to quantize, counted from 0, such as [0-3, 7]; empty: all."));
  rows.push_back(QAT_ROW(
      quantize.overrides, widths(), Matters::yes,
      "Bits of single matrices, as PATTERN=BITS with a pattern as in include; none leaves "
      "them (and their inputs) as they are. A later one wins; the other keys of the grid stay.",
      {.when = kWeights, .nicknames = {"tensor_type", "dynamic", "mixed_precision"}}));
  rows.push_back(QAT_ROW(quantize.embeddings, word(), Matters::yes,
                         "Grid of the embeddings: q8_0 is int8 in blocks of 32 with f16 scales, "
                         "q6_k int6 in super-blocks of 256 (q8_0 where those do not divide a row). "
                         "With a tied head it is the head's too.",
                         {.default_note = preset}));
  rows.push_back(QAT_ROW(quantize.head, word(), Matters::yes,
                         "Grid of the output head; its input is quantized as the activations are.",
                         {.default_note = preset}));
  rows.push_back(QAT_ROW(
      quantize.auto_bits.budget, number_above(2, 16), Matters::yes,
      "Before training, choose the bits of each matrix: those of least damage whose mean over all "
      "quantized weights, scales counted, is at most this. Damage is the KL to the unquantized "
      "model when that matrix alone is rounded; q, k, v and gate, up stay alike, as runtimes fuse "
      "them. Decides quantize.weights.bits; quantize.overrides win.",
      {.when = kWeights, .nicknames = {"mixed_precision", "target_bits", "bpw"}}));
  rows.push_back(QAT_ROW(quantize.auto_bits.candidates, whole(2, 8), Matters::yes,
                         "The bits a matrix may get.",
                         {.when = kAutoBits, .nicknames = {"bits", "widths"}}));
  rows.push_back(QAT_ROW(quantize.auto_bits.samples, whole(1, kMany), Matters::yes,
                         "Training sequences that the damage is measured on: each costs a part of "
                         "a forward for every matrix and candidate.",
                         {.when = kAutoBits}));
  rows.push_back(QAT_ROW(quantize.calibrate.samples, whole(1, kMany), Matters::yes,
                         "Training sequences that calibration looks at."));
  rows.push_back(QAT_ROW(quantize.calibrate.range, word(), Matters::yes,
                         "Range of a calibrated activation: its extremes, a percentile of its "
                         "magnitudes, or the one of least squared error."));
  rows.push_back(QAT_ROW(quantize.calibrate.percentile, number_above(50, 100), Matters::yes,
                         "Share of the values inside the range, in percent.",
                         {.when = kPercentile}));
  rows.push_back(QAT_ROW(quantize.smooth.alpha, number(0, 1), Matters::yes,
                         "SmoothQuant: how much of the activations' range moves into the weights; "
                         "search picks one a layer.",
                         {.nicknames = {"smoothquant"}}));
  rows.push_back(QAT_ROW(quantize.smooth.fold, word(), Matters::yes,
                         "Where it comes out of the activations, each exact: norm (before q, k, v "
                         "and gate, up), up_proj (before down_proj), v_proj (before o_proj).",
                         {.when = kSmooth}));
  rows.push_back(QAT_ROW(
      quantize.rotation.kind, word(), Matters::yes,
      "hadamard: rotate the model as it is read, so that no channel is much larger than the others "
      "and few bits hold it; it computes the same. Folded into the weights: the residual stream "
      "(norms first; a tied head becomes a matrix of its own) and the heads of v_proj and o_proj. "
      "Signs follow from seed.",
      {.nicknames = {"quarot", "spinquant", "hadamard"}}));
  rows.push_back(QAT_ROW(quantize.rotation.online, toggle(), Matters::yes,
                         "Also rotate, as the model runs, the inputs of down_proj and, with "
                         "quantize.kv_cache, queries "
                         "and keys. No exported file's runtime does that: off leaves it out.",
                         {.when = kRotation}));
  rows.push_back(QAT_ROW(
      quantize.solver.kind, word(), Matters::yes,
      "How the codes of weights are chosen before training: rtn rounds each to the nearest; gptq "
      "rounds columns in turn and makes up for each in the others; awq scales input channels and "
      "clips ranges. gptq and awq look at quantize.calibrate.samples sequences, and their grids "
      "stay as they are in training.",
      {.when = kWeights, .nicknames = {"method", "quant_method", "algorithm"}}));
  rows.push_back(QAT_ROW(quantize.solver.dampening_frac, number(0, 1), Matters::yes,
                         "Added to the Hessian's diagonal, as a share of the diagonal's mean.",
                         {.when = kGptq, .nicknames = {"percdamp", "damp_percent", "damp"}}));
  rows.push_back(QAT_ROW(quantize.solver.block_size, whole(1, kWide), Matters::yes,
                         "Columns whose errors reach the columns behind them together.",
                         {.when = kGptq, .nicknames = {"blocksize"}}));
  rows.push_back(QAT_ROW(
      quantize.solver.actorder, word(), Matters::yes,
      "Order of the columns: none, as they lie; static, largest inputs first with the groups where "
      "they lie and grids of the weights as they were, which every format holds; group, groups of "
      "neighbours in that order, which gptq holds alone (desc_act).",
      {.when = kGptq, .nicknames = {"desc_act", "act_order", "act_group_aware"}}));
  rows.push_back(QAT_ROW(quantize.solver.n_grid, whole(1, 1000), Matters::yes,
                         "Strengths of the scaling that are tried.",
                         {.when = kAwq, .nicknames = {"grid", "num_ratios"}}));
  rows.push_back(QAT_ROW(quantize.solver.duo_scaling, toggle(), Matters::yes,
                         "Scales follow the weights' magnitudes beside the inputs'.",
                         {.when = kAwq}));
  rows.push_back(QAT_ROW(quantize.solver.clip, toggle(), Matters::yes,
                         "Search each group's range for the least error of the outputs (not of q "
                         "and k).",
                         {.when = kAwq, .nicknames = {"apply_clip", "auto_clip"}}));
}

void add_adapter_rows(std::vector<Field>& rows) {
  rows.push_back(QAT_ROW(
      adapter.kind, word(), Matters::yes,
      "Train low-rank adapters on a frozen model: y = W x + s B A x; dora also trains the length "
      "of each output channel's weights.",
      {.nicknames = {"peft_type", "use_dora", "type"}}));
  rows.push_back(QAT_ROW(adapter.rank, whole(1, 65536), Matters::yes,
                         "Rows of A, columns of B; r is read too.",
                         {.when = kFreshAdapter,
                          .nicknames = {"lora_r", "lora_rank", "rank_dim"},
                          .also = "adapter.r"}));
  rows.push_back(QAT_ROW(adapter.alpha, number_above(0, 1e6), Matters::yes,
                         "Strength: s is alpha / rank.",
                         {.when = kFreshAdapter, .nicknames = {"lora_alpha", "scaling"}}));
  rows.push_back(QAT_ROW(adapter.use_rslora, toggle(), Matters::yes,
                         "s is alpha / sqrt(rank) instead, so that high ranks learn as fast.",
                         {.when = kFreshAdapter, .nicknames = {"rslora"}}));
  rows.push_back(QAT_ROW(adapter.dropout, number(0, 0.95), Matters::yes,
                         "Share of A's inputs that is set to 0 in training.",
                         {.when = kAdapter, .nicknames = {"lora_dropout"}}));
  rows.push_back(QAT_ROW(adapter.target_modules, text(), Matters::yes,
                         "Matrices that get adapters: names or patterns with * and ?, or "
                         "all-linear.",
                         {.when = kFreshAdapter, .nicknames = {"targets", "lora_modules"}}));
  rows.push_back(QAT_ROW(
      adapter.base, word(), Matters::yes,
      "How the frozen matrices are stored: none in fp32; nf4 and fp4 in blocks "
      "of 64 and int8 per channel, as bitsandbytes does (embeddings and head "
      "stay bf16).",
      {.when = kAdapter,
       .default_note = "bf16; none where dtype is fp32",
       .nicknames = {"bnb_4bit_quant_type", "load_in_4bit", "load_in_8bit", "quantization"}}));
  rows.push_back(QAT_ROW(adapter.double_quant, toggle(), Matters::yes,
                         "Quantize the blocks' scales to 8 bits too.",
                         {.when = kFourBitBase, .nicknames = {"bnb_4bit_use_double_quant"}}));
  rows.push_back(QAT_ROW(adapter.dtype, word(), Matters::yes,
                         "Type the factors are stored and updated in; bf16 rounds at random.",
                         {.when = kAdapter}));
  rows.push_back(QAT_ROW(adapter.from, path(), Matters::yes,
                         "PEFT directory to start from; it gives rank, alpha and modules.",
                         {.when = kAdapter, .nicknames = {"adapter_name_or_path"}}));
}

void add_train_rows(std::vector<Field>& rows) {
  rows.push_back(QAT_ROW(train.steps, whole(0, kMany), Matters::yes,
                         "Optimizer steps; 0 only calibrates, quantizes and exports.",
                         {.need = Need::required, .nicknames = {"max_steps", "iterations"}}));
  rows.push_back(QAT_ROW(train.batch, whole(1, kWide), Matters::yes,
                         "Sequences a step, over all ranks.", {.nicknames = {"batch_size"}}));
  rows.push_back(QAT_ROW(train.micro_batch, whole(0, kWide), Matters::yes,
                         "Sequences a rank computes at a time; less needs less memory. 0: all of "
                         "its batch.",
                         {.nicknames = {"micro_batch_size", "gradient_accumulation_steps"}}));
  rows.push_back(
      QAT_ROW(train.zero_stage, whole(0, 3), Matters::no,
              "What is split over the ranks of a run (ZeRO): 0 nothing, 1 moments and "
              "master weights, 2 gradients too, 3 the weights that the matmuls read too. "
              "Each stage needs less memory a rank; 3 sends more.",
              {.nicknames = {"zero_optimization", "zero", "fsdp"}}));
  rows.push_back(QAT_ROW(train.compare_ranks, whole(0, kMany), Matters::no,
                         "Steps between comparisons of the weights that every rank holds; a rank "
                         "that drifted ends the run. 0: none."));
  rows.push_back(QAT_ROW(train.watchdog, number(0, 1e7), Matters::no,
                         "Seconds without progress after which a run of several ranks names the "
                         "one that hangs and ends with 6; ten times as many outside of the steps "
                         "(preparing, saving, evaluating, exporting). 0: never.",
                         {.nicknames = {"ddp_timeout", "nccl_timeout"}}));
  rows.push_back(QAT_ROW(
      train.trainable, text(), Matters::yes,
      "What is trained, all else stays: norms, head, embeddings, scales (of the codes that "
      "quantize.solver chose), or modules by the end of their path (mlp.down_proj) or a glob "
      "(model.layers.2[0-9].*); empty: everything.",
      {.when = kWholeModel,
       .nicknames = {"trainable_parameters", "unfrozen_parameters", "modules_to_train"}}));
  rows.push_back(QAT_ROW(train.warmup_bf16, whole(0, kMany), Matters::yes,
                         "Steps before any fake quantization."));
  rows.push_back(
      QAT_ROW(train.enable.order, word(), Matters::yes,
              "Which layers are quantized first; sensitivity measures, least harm first."));
  rows.push_back(QAT_ROW(train.enable.layers, whole(0, 10000), Matters::yes,
                         "Layers that join at each stage; 0: all at once."));
  rows.push_back(
      QAT_ROW(train.enable.every, whole(1, kMany), Matters::yes, "Steps between two stages."));
  rows.push_back(
      QAT_ROW(train.enable.rewarm, whole(0, kMany), Matters::yes,
              "Steps over which the learning rate climbs again after a stage; 0: none."));
  rows.push_back(QAT_ROW(train.learning_rate, number(0, 10), Matters::yes, "Highest learning rate.",
                         {.nicknames = {"lr", "max_lr"}}));
  rows.push_back(QAT_ROW(train.schedule.kind, word(), Matters::yes,
                         "How the learning rate falls: wsd stays constant, then decays.",
                         {.nicknames = {"lr_scheduler_type", "lr_schedule"}}));
  rows.push_back(QAT_ROW(train.schedule.warmup, whole(0, kMany), Matters::yes,
                         "Steps over which the learning rate climbs from 0.",
                         {.nicknames = {"warmup_steps"}}));
  rows.push_back(QAT_ROW(train.schedule.final, number(0, 1), Matters::yes,
                         "Share of the learning rate that is left at the last step.",
                         {.when = kDecays, .nicknames = {"min_lr"}}));
  rows.push_back(QAT_ROW(
      train.schedule.decay, whole(0, kMany), Matters::yes, "Steps of the decay at the end.",
      {.when = kWsd, .default_note = "a fifth of train.steps", .nicknames = {"decay_steps"}}));
  rows.push_back(QAT_ROW(train.optimizer.kind, word(), Matters::yes, "The optimizer."));
  rows.push_back(QAT_ROW(train.optimizer.state_bits, one_of({32, 8}), Matters::yes,
                         "Bits of each moment; 8 stores codes in blocks of 256."));
  rows.push_back(QAT_ROW(train.optimizer.beta1, number(0, 0.999999), Matters::yes,
                         "Decay of the mean gradient."));
  rows.push_back(QAT_ROW(train.optimizer.beta2, number(0, 0.9999999), Matters::yes,
                         "Decay of the mean squared gradient."));
  rows.push_back(QAT_ROW(train.optimizer.eps, number_above(0, 1), Matters::yes,
                         "Added to the root of the mean square.",
                         {.nicknames = {"epsilon", "adam_epsilon"}}));
  rows.push_back(
      QAT_ROW(train.optimizer.weight_decay, number(0, 10), Matters::yes,
              "Decoupled weight decay, times the learning rate a step; none on norms and "
              "biases."));
  rows.push_back(QAT_ROW(train.optimizer.master, word(), Matters::yes,
                         "Type of the weights that are updated; bf16_stochastic rounds at random "
                         "and halves their memory.",
                         {.when = kWholeModel}));
  rows.push_back(QAT_ROW(train.clip_grad_norm, number(0, 1e9), Matters::yes,
                         "Largest global gradient norm; 0: no clipping.",
                         {.nicknames = {"grad_clip", "max_grad_norm", "clip"}}));
  rows.push_back(QAT_ROW(train.recompute, word(), Matters::no,
                         "What backward computes again instead of keeping: nothing, the cheap "
                         "operations, or whole layers. The results do not change.",
                         {.nicknames = {"gradient_checkpointing", "activation_checkpointing"}}));
  rows.push_back(QAT_ROW(train.max_bad_steps, whole(1, kMany), Matters::no,
                         "Steps with a non-finite loss or gradient in a row that end the run."));
  rows.push_back(QAT_ROW(train.spike_z, number(0, 1e6), Matters::yes,
                         "A loss so many standard deviations above those of the steps before is a "
                         "spike; 0: none is.",
                         {.nicknames = {"spike_threshold"}}));
  rows.push_back(
      QAT_ROW(train.on_spike, word(), Matters::yes,
              "What a spike does: log trains on, skip leaves its update out, rollback goes "
              "back to the newest checkpoint and on with the data after the spike."));
  rows.push_back(QAT_ROW(train.fuse, toggle(), Matters::yes,
                         "Multiply integers where weights and activations are quantized, as the "
                         "deployed model does; off: simulate in floating point."));
  rows.push_back(QAT_ROW(train.log_every, whole(1, kMany), Matters::no,
                         "Steps between two progress lines.",
                         {.nicknames = {"logging_steps", "log_interval"}}));

  rows.push_back(QAT_ROW(distill.teacher, path(), Matters::yes,
                         "Model to imitate: self is the unquantized start, or a directory, GGUF "
                         "file or run directory with the same tokenizer.",
                         {.default_note = "none; self if distill.kl is set"}));
  rows.push_back(QAT_ROW(distill.kl, number(0, 1e6), Matters::yes,
                         "Weight of the teacher's KL divergence in the loss.",
                         {.default_note = "1 with a teacher, else 0"}));
  rows.push_back(QAT_ROW(distill.cross_entropy, number(0, 1e6), Matters::yes,
                         "Weight of the text's cross-entropy in the loss.",
                         {.default_note = "0 with a teacher, else 1", .nicknames = {"ce"}}));
  rows.push_back(QAT_ROW(distill.temperature, number_above(0, 1000), Matters::yes,
                         "Divides both models' logits in the KL term."));
}

void add_output_rows(std::vector<Field>& rows) {
  rows.push_back(QAT_ROW(checkpoint.every, whole(0, kMany), Matters::no,
                         "Steps between checkpoints; 0: only when stopped and at the end. What "
                         "quantize.solver chose is saved before the first step.",
                         {.nicknames = {"save_steps", "save_every"}}));
  rows.push_back(QAT_ROW(checkpoint.keep, whole(2, 1e6), Matters::no,
                         "Checkpoints that stay on disk.", {.nicknames = {"save_total_limit"}}));
  rows.push_back(QAT_ROW(checkpoint.max_failed_saves, whole(1, 1e6), Matters::no,
                         "Failed saves in a row that end the run."));
  rows.push_back(QAT_ROW(checkpoint.async, toggle(), Matters::no,
                         "Training goes on while a checkpoint is written from a copy; that copy is "
                         "memory of its own, as much as masters and moments take. Off: it waits.",
                         {.nicknames = {"enable_async_checkpointing", "async_save"}}));
  rows.push_back(QAT_ROW(checkpoint.time_limit, number(0, 1e7), Matters::no,
                         "Minutes after which the run must have ended: it saves and leaves with 85 "
                         "while there is time. 0: as SLURM_JOB_END_TIME says, if it is set.",
                         {.nicknames = {"max_time", "time"}}));
  rows.push_back(
      QAT_ROW(resume, path(), Matters::no,
              "Which checkpoint to go on from: auto takes the newest whole one, if there "
              "are any; auto-or-scratch starts over if all are damaged.",
              {.nicknames = {"resume_from_checkpoint"}}));
  rows.push_back(QAT_ROW(resume_allow, keys(), Matters::no,
                         "Keys, or sections, that may differ from the run that is resumed."));
  rows.push_back(QAT_ROW(
      evaluate.metrics, word(), Matters::no,
      "What to measure of the source, the quantized and the trained model: perplexity and "
      "agreement (KL to the source, same likeliest token) on data.eval; generation "
      "(repetition, loops, where it leaves the source's text); tasks, as "
      "lm-evaluation-harness defines them.",
      {.default_note = "[perplexity] if data.eval is set", .nicknames = {"tasks", "metrics"}}));
  rows.push_back(
      QAT_ROW(evaluate.task_data, path(), Matters::no,
              "Folder with a file TASK.jsonl for each task (gsm8k: gsm8k_test_500.jsonl).",
              {.need = Need::required, .when = kTasks}));
  rows.push_back(QAT_ROW(evaluate.task_rows, whole(0, kMany), Matters::no,
                         "Rows of each task, from its start; 0: all.",
                         {.when = kTasks, .nicknames = {"num_samples"}}));
  rows.push_back(QAT_ROW(evaluate.shots, whole(0, 64), Matters::no,
                         "Solved examples before each question of gsm8k.",
                         {.when = kChains, .nicknames = {"num_fewshot"}}));
  rows.push_back(QAT_ROW(evaluate.examples, path(), Matters::no,
                         "File the solved examples come from; task takes the last rows of the "
                         "task's own file, which are not asked then.",
                         {.when = kChains}));
  rows.push_back(QAT_ROW(evaluate.generated_tokens, whole(1, 65536), Matters::no,
                         "Tokens that each fixed prompt is continued by.", {.when = kGeneration}));
  rows.push_back(QAT_ROW(evaluate.context, whole(2, kWide), Matters::no,
                         "Tokens a window of the held-out text.",
                         {.default_note = "data.sequence"}));
  rows.push_back(QAT_ROW(evaluate.max_windows, whole(0, kMany), Matters::no,
                         "Windows of each file, from its start; 0: all.",
                         {.nicknames = {"eval_windows", "limit"}}));
  rows.push_back(QAT_ROW(evaluate.dtype, word(), Matters::no, "Type the measurement computes in."));
  rows.push_back(QAT_ROW(generate.prompts, text(), Matters::no,
                         "Texts the finished model continues, as a sample."));
  rows.push_back(QAT_ROW(generate.max_tokens, whole(1, kWide), Matters::no, "Longest continuation.",
                         {.nicknames = {"max_new_tokens"}}));
  rows.push_back(QAT_ROW(generate.temperature, number(0, 1000), Matters::no,
                         "Above 0 draws at random; 0 takes the likeliest token."));
  rows.push_back(QAT_ROW_AS("export", exports, word(), Matters::no,
                            "What to write at the end: hf (weights on their grid, F32), hf-master "
                            "(the high-precision weights), compressed-tensors, gptq, awq (integer "
                            "codes), gguf (llama.cpp), peft (the adapter alone)."));
  rows.push_back(QAT_ROW(max_shard_size, text(), Matters::no,
                         "Largest safetensors file of an export, such as 500MB or 5GB; what is "
                         "larger is written as shards with an index."));
  rows.push_back(
      QAT_ROW(split_max_size, text(), Matters::no,
              "Largest GGUF file of an export, such as 2GB; what is larger is split into "
              "NAME-00001-of-0000N.gguf. none: one file."));
}

}  // namespace

const std::vector<Field>& recipe_fields() {
  static const std::vector<Field> kFields = [] {
    std::vector<Field> rows;
    add_run_rows(rows);
    add_data_rows(rows);
    add_quantize_rows(rows);
    add_adapter_rows(rows);
    add_train_rows(rows);
    add_output_rows(rows);
    return rows;
  }();
  return kFields;
}

const std::vector<Section>& recipe_sections() {
  static const std::vector<Section> kSections = {
      {"model", "model.from", "The model to train: a path, or the shape of a new one."},
      {"data", "", "What to train and measure on."},
      {"quantize", "quantize.preset", "How the deployed model is quantized."},
      {"quantize.weights", "quantize.weights.bits", "The grid of the weights."},
      {"quantize.activations", "quantize.activations.bits",
       "The grid of the inputs of quantized matrices."},
      {"quantize.kv_cache", "quantize.kv_cache.type", "The grid of cached keys and values."},
      {"quantize.auto_bits", "quantize.auto_bits.budget",
       "Bits of each matrix, by measurement before training."},
      {"quantize.calibrate", "quantize.calibrate.samples",
       "Ranges measured on data before training."},
      {"quantize.smooth", "quantize.smooth.alpha",
       "SmoothQuant, folded into the weights before training."},
      {"quantize.rotation", "quantize.rotation.kind",
       "QuaRot's rotations, exact and made before anything else; the matrix is a Hadamard matrix, "
       "where the width is no power of two Hartley's times one (kernels/hadamard.h)."},
      {"quantize.solver", "quantize.solver.kind", "The choice of codes before training."},
      {"adapter", "adapter.kind", "Adapters on a frozen model."},
      {"train", "", "The training loop."},
      {"train.enable", "train.enable.order", "How fake quantization comes on, layer by layer."},
      {"train.schedule", "train.schedule.kind", "The learning rate over the run."},
      {"train.optimizer", "train.optimizer.kind", "The optimizer and its state."},
      {"distill", "distill.teacher", "Learning from an unquantized teacher."},
      {"checkpoint", "checkpoint.every", "Saving."},
      {"evaluate", "evaluate.metrics", "Measuring at the end."},
      {"generate", "generate.prompts", "Sample texts at the end."},
  };
  return kSections;
}

const Field* find_field(const std::string& key) {
  for (const auto& field : recipe_fields())
    if (field.key == key || (!field.also.empty() && field.also == key)) return &field;
  return nullptr;
}

const Section* find_section(const std::string& key) {
  for (const auto& section : recipe_sections())
    if (section.key == key) return &section;
  return nullptr;
}

}  // namespace qat::recipe
