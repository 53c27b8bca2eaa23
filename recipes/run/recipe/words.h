// The words a recipe uses for each enum. A second spelling of a value is read but never written.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {

template <class E>
using WordList = std::vector<std::pair<const char*, E>>;

template <class E>
struct Words;  // Words<E>::list() of every enum in a recipe

#define QAT_WORDS(E, ...)                             \
  template <>                                         \
  struct Words<E> {                                   \
    static const WordList<E>& list() {                \
      using enum E;                                   \
      static const WordList<E> kList = {__VA_ARGS__}; \
      return kList;                                   \
    }                                                 \
  };

QAT_WORDS(Backend, {"auto", automatic}, {"cpu", cpu}, {"cuda", cuda})
QAT_WORDS(DType, {"bf16", bf16}, {"fp32", f32})
QAT_WORDS(DataFormat, {"auto", by_extension}, {"text", text},
          {"prompt_completion", prompt_completion}, {"messages", messages})
QAT_WORDS(Rounding, {"nearest", nearest}, {"stochastic", stochastic}, {"lsq", lsq}, {"ggml", ggml})
QAT_WORDS(RotationKind, {"none", none}, {"hadamard", hadamard})
QAT_WORDS(ScaleInit, {"rule", rule}, {"lsq", lsq})
QAT_WORDS(Per, {"channel", row}, {"tensor", tensor}, {"group", group})
QAT_WORDS(ActivationPer, {"token", token}, {"tensor", tensor}, {"group", group})
QAT_WORDS(Offset, {"zero_point", zero_point}, {"minimum", minimum})
QAT_WORDS(KvType, {"none", none}, {"q8_0", q8_0}, {"q4_0", q4_0}, {"int8", int8}, {"int4", int4})
QAT_WORDS(KvPer, {"token", token}, {"head", head}, {"group", group})
QAT_WORDS(TableGrid, {"none", none}, {"q8_0", q8_0}, {"q6_k", q6_k})
QAT_WORDS(Form, {"integer", integer}, {"e4m3", e4m3}, {"q4_k", q4_k}, {"q6_k", q6_k})
QAT_WORDS(Division, {"stored", stored}, {"exact", exact})
QAT_WORDS(SymmetricRange, {"strict", strict}, {"full", full}, {"stretched", stretched})
QAT_WORDS(ScaleRule, {"amax", amax}, {"half_range", half_range}, {"no_clip", no_clip},
          {"signed_max", signed_max}, {"min_max", min_max}, {"minmax", min_max}, {"mse", mse},
          {"mse_signed", mse_signed})
QAT_WORDS(ScaleType, {"f32", f32}, {"bf16", bf16}, {"f16", f16}, {"portable", portable})
QAT_WORDS(CalibrationRange, {"min_max", min_max}, {"minmax", min_max}, {"percentile", percentile},
          {"mse", mse})
QAT_WORDS(SmoothFold, {"norm", norm}, {"up_proj", up_proj}, {"v_proj", v_proj})
QAT_WORDS(SolverKind, {"rtn", rtn}, {"gptq", gptq}, {"awq", awq})
QAT_WORDS(ActOrder, {"none", none}, {"static", fixed}, {"weight", fixed}, {"group", group})
QAT_WORDS(EnableOrder, {"front_to_back", front_to_back}, {"back_to_front", back_to_front},
          {"sensitivity", sensitivity})
QAT_WORDS(ScheduleKind, {"cosine", cosine}, {"linear", linear}, {"wsd", wsd},
          {"constant", constant})
QAT_WORDS(OptimizerKind, {"adamw", adamw})
QAT_WORDS(MasterWeights, {"fp32", fp32}, {"bf16_stochastic", bf16_stochastic})
QAT_WORDS(RecomputePolicy, {"off", off}, {"cheap", cheap}, {"block", block})
QAT_WORDS(OnSpike, {"log", log}, {"skip", skip}, {"rollback", rollback})
QAT_WORDS(Metric, {"perplexity", perplexity}, {"agreement", agreement}, {"generation", generation},
          {"hellaswag", hellaswag}, {"arc_easy", arc_easy}, {"arc_challenge", arc_challenge},
          {"piqa", piqa}, {"openbookqa", openbookqa}, {"winogrande", winogrande},
          {"lambada", lambada}, {"gsm8k", gsm8k}, {"passkey", passkey})
QAT_WORDS(ExportFormat, {"hf", hf}, {"hf-master", hf_master},
          {"compressed-tensors", compressed_tensors}, {"gguf", gguf}, {"gptq", gptq}, {"awq", awq},
          {"peft", peft})
QAT_WORDS(AdapterChoice, {"none", none}, {"lora", lora}, {"dora", dora})
QAT_WORDS(BaseChoice, {"none", none}, {"bf16", bf16}, {"int8", int8}, {"nf4", nf4}, {"fp4", fp4})
// Of a WordOrPath: the words beside E::path.
QAT_WORDS(ModelOrigin, {"scratch", scratch})
QAT_WORDS(AdapterStart, {"none", none})
QAT_WORDS(TeacherKind, {"none", none}, {"self", self})
QAT_WORDS(ResumeKind, {"auto", automatic}, {"never", never},
          {"auto-or-scratch", automatic_or_scratch})
QAT_WORDS(CacheKind, {"run", run}, {"off", off})
QAT_WORDS(TemplateKind, {"model", model})
QAT_WORDS(ExamplesKind, {"task", task})
#undef QAT_WORDS

/// The word of a value: word_of(Backend::cpu) is "cpu".
template <class E>
std::string word_of(E value) {
  for (const auto& [word, meaning] : Words<E>::list())
    if (meaning == value) return word;
  return "?";
}

/// The words that are written, or only the other spellings of them.
enum class Spelling { written, other };
template <class E>
std::vector<std::string> all_words(Spelling spelling) {
  std::vector<std::string> out;
  for (const auto& [word, value] : Words<E>::list())
    if ((word_of(value) == word) == (spelling == Spelling::written)) out.push_back(word);
  return out;
}

}  // namespace qat::recipe
