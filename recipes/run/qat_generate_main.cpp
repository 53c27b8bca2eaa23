// qat-generate MODEL --prompt TEXT: continues a text.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "models/generate.h"
#include "recipes/run/command.h"
#include "recipes/run/model_bundle.h"

int main(int argc, char** argv) {
  using namespace qat;
  CLI::App app{"Continues a prompt with a model, token by token.", "qat-generate"};
  std::string model, prompt, dtype = "fp32";
  SamplingOptions sampling;
  int threads = 0;
  AdapterArguments adapter;
  app.add_option("model", model, "Hugging Face directory, .gguf file or run directory")->required();
  app.add_option("--prompt", prompt, "the text to continue")->required();
  app.add_option("--max-tokens", sampling.max_tokens, "tokens to add at most")
      ->check(CLI::PositiveNumber);
  app.add_option("--temperature", sampling.temperature, "0 (default): always the likeliest token")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", sampling.top_p, "only the likeliest tokens that hold this share")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--top-k", sampling.top_k, "only so many of the likeliest tokens (0: all)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", sampling.seed, "of the sampling");
  app.add_option("--dtype", dtype, "of the computation")->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--threads", threads, "0: all");
  add_options(app, adapter);
  return run_command(app, argc, argv, [&] {
    Store store;
    Stream stream(threads);
    const ModelBundle bundle = open_model(model, store, cpu_kernels(), stream, adapter);
    fill_rope_table(bundle.config, store, "");
    const std::vector<int32_t> ids = bundle.tokenizer->encode_with_special(prompt);
    const ForwardSpec spec =
        forward_spec(bundle, store, dtype == "fp32" ? DType::f32 : DType::bf16);
    const int64_t context =
        std::min(bundle.config.max_positions, int64_t(ids.size()) + sampling.max_tokens);
    Generator generator(spec, store, cpu_kernels(), stream, context);
    // A token may end inside a character, so what is printed is what the whole text grew by.
    std::vector<int32_t> all = ids;
    std::string shown = bundle.tokenizer->decode(all, true);
    std::printf("%s", shown.c_str());
    generator.generate(ids, sampling, [&](int32_t token) {
      all.push_back(token);
      const std::string text = bundle.tokenizer->decode(all, true);
      if (text.ends_with("\xEF\xBF\xBD") || !text.starts_with(shown)) return;
      std::fwrite(text.data() + shown.size(), 1, text.size() - shown.size(), stdout);
      std::fflush(stdout);
      shown = text;
    });
    const std::string text = bundle.tokenizer->decode(all, true);
    if (text.starts_with(shown))
      std::fwrite(text.data() + shown.size(), 1, text.size() - shown.size(), stdout);
    std::printf("\n");
    return Exit::ok;
  });
}
