#include "recipes/run/export_check.h"

#include <algorithm>
#include <cmath>

#include "engine/core/log.h"
#include "engine/data/eval_windows.h"
#include "models/decoder.h"
#include "models/source.h"
#include "models/token_ids.h"

namespace qat {
namespace {

// What may differ: KL, and perplexity as a share. Of runtimes that multiply the same codes this
// much was measured, for weights alone, and with activations that each runtime sums in its own
// order. A plain model stored in 16 bits has every weight rounded once more.
struct Noise {
  double kl, perplexity;
};
constexpr Noise kNoiseOfWeights = {1e-4, 1e-3}, kNoiseOfActivations = {5e-4, 1e-3},
                kNoiseOfRounding = {5e-3, 2e-2};
// Where some tensors are rounded to 16 bits and activations are quantized, the rounding moves codes
// of activations to their neighbours: KL 5e-4 to 8e-4 in a model of 64 channels (PyTorch with the
// same F16 matrices is as far from itself in float32), 2.1e-3 in one of 30 layers. A fault could
// hide in that, so there the weights are compared with activations as they are too; two rows of one
// matrix swapped are 1e-2.
constexpr Noise kNoiseOfMovedCodes = {1e-2, 2e-2}, kNoiseOfRoundedTables = {3e-4, 2e-3};

// Logits of a window exist at once.
constexpr int64_t kWindow = 128, kWindows = 8;

constexpr const char* kBuiltInText =
    "The harbour at the end of the long road was quiet in the early morning. A few fishing boats "
    "lay tied to the wooden pier, and their ropes creaked each time the tide lifted them. An old "
    "man who mended nets for a living sat on an upturned crate and watched the sun come up over "
    "the water. He had done so every day for more than forty years, and he still thought that no "
    "two mornings were alike.\n\n"
    "Bread is made from flour, water, salt and yeast. Mix them in a bowl, knead the dough for ten "
    "minutes until it is smooth, and let it rest in a warm place until it has doubled in size. "
    "Then shape it into a loaf, let it rise once more, and bake it in a hot oven for about half "
    "an hour. The bread is done when it sounds hollow if you knock on its underside.\n\n"
    "A prime number is a whole number greater than one that has no divisors other than one and "
    "itself. The first few are 2, 3, 5, 7, 11 and 13. There is no largest prime: if there were "
    "finitely many, their product plus one would be divisible by none of them, and so would have "
    "a prime factor that is not on the list.\n\n"
    "def average(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\n"
    "Once there was a little girl who lived with her brother in a small house by the forest. One "
    "day they found a bird with a broken wing. They took it home, gave it water and seeds, and "
    "kept it warm in a box with straw. After three weeks the bird could fly again. It sang to them "
    "from the tree beside the window, and every spring it came back.\n\n"
    "The parliament met on Tuesday to discuss the new budget. The minister of finance said that "
    "spending on schools and railways would grow by four percent, while taxes on income would stay "
    "as they are. Members of the opposition asked how the plan was to be paid for, and called for "
    "a second reading before the summer.\n";

// A tokenizer that makes few tokens of the text gets shorter windows.
std::vector<Batch> built_in_windows(const ExportInputs& in) {
  const std::vector<int32_t> ids = in.tokenizer.encode(kBuiltInText);
  check_token_ids(ids, in.config);
  const int64_t window =
      std::min({kWindow, in.config.max_positions, std::max<int64_t>(int64_t(ids.size()) / 2, 2)});
  return windows_of(ids, window, kWindows);
}

// The trained plan with the activations and the KV cache of the file's runtime: what a format does
// not say, or what its runtime does whatever was trained, is no fault of the file. The log tells.
QuantPlan under_activations_of(const QuantPlan& served, const QuantPlan& trained,
                               const std::string& path) {
  QuantPlan plan = trained;
  plan.kv_cache = served.kv_cache;
  int64_t others = 0;
  for (const auto& [linear, quant] : served.linears)
    if (quant.activation) plan.linears.try_emplace(linear);
  for (auto& [linear, quant] : plan.linears) {
    const auto found = served.linears.find(linear);
    const LinearQuant runtime = found == served.linears.end() ? LinearQuant{} : found->second;
    // A static grid is the run's own, and lies in its Store.
    if (quant.activation == runtime.activation || runtime.static_activation) continue;
    quant.activation = runtime.activation;
    quant.static_activation = false;
    ++others;
  }
  if (others > 0)
    log::info(
        "{}: its runtime quantizes the inputs of {} matrices otherwise than this run; "
        "compared under what it does",
        path.substr(0, path.find(".tmp-")), others);  // the name it gets if it passes
  return plan;
}

QuantPlan without_activations(QuantPlan plan) {
  for (auto& [linear, quant] : plan.linears) {
    quant.activation.reset();
    quant.static_activation = false;
  }
  return plan;
}

// "" where the two agree within the noise, else by how much they do not.
std::string beyond(const Agreement& found, const Noise& noise, const std::string& text_name,
                   const char* how) {
  const double change = found.perplexity / found.reference_perplexity - 1;
  if (found.kl <= noise.kl && std::abs(change) <= noise.perplexity) return "";
  return fmt::format(
      "its logits are not the trained model's on {}{}: KL {:.2e} (at most {:.0e}), same likeliest "
      "token {:.2f}%, perplexity {:.4f} against {:.4f}",
      text_name, how, found.kl, noise.kl, 100 * found.same_likeliest, found.perplexity,
      found.reference_perplexity);
}

}  // namespace

void choose_text(const std::vector<std::string>& files, const TokenizeOptions& tokenize,
                 ExportInputs& in) {
  const int64_t window = std::min(kWindow, in.config.max_positions);
  for (const std::string& file : files) {
    try {
      const auto windows =
          EvalWindows::open(file, tokenize, {.window = window, .max_windows = kWindows});
      in.text.clear();
      for (int64_t i = 0; i < windows.windows(); ++i) in.text.push_back(windows.rows(i, 1));
      in.text_name = file;
      return;
    } catch (const std::exception& error) {  // missing, too short, chats without a template
      log::debug("export: {}: not a text to compare logits on: {}", file, error.what());
    }
  }
  in.text = built_in_windows(in);
  in.text_name = "the built-in text";
}

std::string ExportCheck::find_fault(const std::string& path, const QuantPlan& plan,
                                    StoredType type) {
  Store store;
  const auto source = ModelSource::open(path);
  const QuantPlan served = load_deployed(*source, store, DType::f32, Category::masters);
  fill_rope_table(source->config(), store, "");
  const QuantPlan trained = under_activations_of(served, plan, path);
  const ComparedModel reference{in_.config, trained, in_.store,
                                in_.store.get("model.embed_tokens.weight").dtype, &in_.adapters};
  const ComparedModel file{source->config(), served, store};
  agreement_ = compare_models(reference, file, in_.kernels, in_.stream, in_.text);
  const bool activations =
      std::any_of(served.linears.begin(), served.linears.end(),
                  [](const auto& linear) { return linear.second.activation.has_value(); });
  const bool rounded = type != StoredType::f32;
  if (rounded && activations) {
    const QuantPlan plain = without_activations(trained),
                    plain_served = without_activations(served);
    const Agreement weights =
        compare_models({in_.config, plain, in_.store, reference.weight_dtype, &in_.adapters},
                       {source->config(), plain_served, store}, in_.kernels, in_.stream, in_.text);
    log::debug("export: {}: weights alone: KL {:.2e}", path, weights.kl);
    const std::string fault =
        beyond(weights, kNoiseOfRoundedTables, in_.text_name, ", activations as they are");
    if (!fault.empty()) return fault;
  }
  const Noise noise = rounded && activations              ? kNoiseOfMovedCodes
                      : rounded && served.linears.empty() ? kNoiseOfRounding
                      : activations                       ? kNoiseOfActivations
                                                          : kNoiseOfWeights;
  return beyond(*agreement_, noise, in_.text_name, "");
}

}  // namespace qat
