// qat-generate MODEL --prompt TEXT: continues a text, answers a message, or continues every prompt
// of a file.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/core/log.h"
#include "models/generate.h"
#include "models/tokenizer/chat_template.h"
#include "recipes/run/command.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/prompts.h"
#include "recipes/run/quant_summary.h"

namespace qat {
namespace {

struct Arguments {
  std::string model, prompt, prompts, system, dtype = "fp32", kv;
  SamplingOptions sampling;
  bool chat = false;
  int threads = 0;
  AdapterArguments adapter;
};

// Text as it grows by tokens. A token may end inside a character, which is held back until the rest
// of it has come.
class GrowingText {
 public:
  explicit GrowingText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// What can be shown now that was not before.
  std::string add(const std::vector<int32_t>& ids) {
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    const std::string text = tokenizer_.decode(ids_, true);
    if (text.ends_with("\xEF\xBF\xBD")) return "";
    return grown_to(text);
  }
  std::string rest() { return grown_to(tokenizer_.decode(ids_, true)); }

 private:
  std::string grown_to(const std::string& text) {
    if (!text.starts_with(shown_)) return "";
    const std::string grown = text.substr(shown_.size());
    shown_ = text;
    return grown;
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  std::string shown_;
};

std::vector<int32_t> ids_of(const Arguments& in, const Tokenizer& tokenizer,
                            const std::optional<ChatTemplate>& chat, const std::string& prompt) {
  if (!chat) return tokenizer.encode_with_special(prompt);
  std::vector<ChatMessage> messages;
  if (!in.system.empty()) messages.push_back({"system", in.system});
  messages.push_back({"user", prompt});
  return tokenizer.encode(chat->render(messages, AddGenerationPrompt::yes));
}

// Shows the text as it comes.
void stream_one(const Tokenizer& tokenizer, Generator& generator, const std::vector<int32_t>& ids,
                const Arguments& in) {
  GrowingText text(tokenizer);
  const std::string start = text.add(ids);
  if (!in.chat) write_output(start);
  generator.generate(ids, in.sampling, [&](int32_t token) {
    write_output(text.add({token}));
    return Next::token;
  });
  write_output(text.rest() + "\n");
}

Exit generate(const Arguments& in) {
  if (in.prompt.empty() == in.prompts.empty())
    refuse("expected --prompt TEXT or --prompts FILE, got {}", in.prompt.empty() ? "none" : "both");
  if (!in.system.empty() && !in.chat) refuse("--system: has a meaning only beside --chat");
  const std::vector<std::string> prompts =
      in.prompts.empty() ? std::vector<std::string>{in.prompt} : read_prompts(in.prompts);
  Store store;
  Stream stream(in.threads);
  ModelBundle bundle = open_model(in.model, store, cpu_kernels(), stream, in.adapter);
  choose_kv_cache(in.kv, bundle);
  fill_rope_table(bundle.config, store, "");
  std::optional<ChatTemplate> chat;
  if (in.chat) chat.emplace(*bundle.tokenizer);
  std::vector<std::vector<int32_t>> all;
  size_t longest = 0;
  for (const std::string& prompt : prompts) {
    all.push_back(ids_of(in, *bundle.tokenizer, chat, prompt));
    longest = std::max(longest, all.back().size());
  }
  const ForwardSpec spec =
      forward_spec(bundle, store, in.dtype == "fp32" ? DType::f32 : DType::bf16);
  const int64_t context =
      std::min(bundle.config.max_positions, int64_t(longest) + in.sampling.max_tokens);
  if (!bundle.plan.kv_cache.empty())
    log::info("KV cache: {}, {:.2f} bits a value", kv_cache_text(bundle.plan),
              kv_cache_bits(bundle.plan, bundle.config));
  Generator generator(spec, store, cpu_kernels(), stream, context);
  if (in.prompts.empty()) {
    stream_one(*bundle.tokenizer, generator, all[0], in);
    return Exit::ok;
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int32_t> ids = generator.generate(all[i], in.sampling);
    // Some tokenizers drop the space a text begins with, so that what follows a prompt is only
    // found beside it.
    GrowingText text(*bundle.tokenizer);
    text.add(all[i]);
    std::string grown = text.add(ids);
    grown += text.rest();
    const nlohmann::ordered_json line = {
        {"prompt", prompts[i]}, {"text", grown}, {"tokens", ids.size()}};
    write_output(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
  return Exit::ok;
}

}  // namespace
}  // namespace qat

int main(int argc, char** argv) {
  using namespace qat;
  CLI::App app{"Continues a prompt with a model, token by token.", "qat-generate"};
  Arguments in;
  app.add_option("model", in.model, "Hugging Face directory, .gguf file or run directory")
      ->required();
  app.add_option("--prompt", in.prompt,
                 "the text to continue, or with --chat the message to answer");
  app.add_option("--prompts", in.prompts,
                 "a file of prompts, one a line, or .jsonl with a field `prompt`; prints a JSON "
                 "object for each");
  app.add_flag("--chat", in.chat, "put the prompt into the model's chat template");
  app.add_option("--system", in.system, "a system message before it");
  SamplingOptions& sampling = in.sampling;
  app.add_option("--max-tokens", sampling.max_tokens, "tokens to add at most")
      ->check(CLI::PositiveNumber);
  app.add_option("--temperature", sampling.temperature, "0 (default): always the likeliest token")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", sampling.top_p, "only the likeliest tokens that hold this share")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--top-k", sampling.top_k, "only so many of the likeliest tokens (0: all)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--min-p", sampling.min_p,
                 "only tokens at least this share as likely as the likeliest")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--repetition-penalty", sampling.repetition_penalty,
                 "above 1: tokens that came before are less likely")
      ->check(CLI::Range(0.01, 100.0));
  app.add_option("--seed", sampling.seed, "of the sampling");
  app.add_option("--dtype", in.dtype, "of the computation")->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--threads", in.threads, "0: all");
  add_kv_option(app, in.kv);
  add_options(app, in.adapter);
  return run_command(app, argc, argv, [&] { return generate(in); });
}
