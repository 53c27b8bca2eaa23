// qat-eval MODEL --text FILE: perplexity of a model, a GGUF file or a finished run.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/core/log.h"
#include "models/evaluate.h"
#include "recipes/run/command.h"
#include "recipes/run/model_bundle.h"
#include "recipes/run/quant_summary.h"

int main(int argc, char** argv) {
  using namespace qat;
  CLI::App app{
      "Perplexity of a model on a text: consecutive windows of N tokens, the first token of "
      "each unscored, the trailing partial window dropped.",
      "qat-eval"};
  std::string model, text, dtype = "fp32", activations = "served";
  int64_t context = 512, max_windows = 0, rows = 4;
  int threads = 0;
  AdapterArguments adapter;
  bool as_json = false, bos = false;
  app.add_option("model", model, "Hugging Face directory, .gguf file or run directory")->required();
  app.add_option("--text", text,
                 "a .txt file, or .jsonl with a field `text` (joined by blank lines)")
      ->required();
  app.add_option("--context", context, "tokens a window")->check(CLI::Range(2, 1 << 20));
  app.add_option("--max-windows", max_windows, "only the first so many windows (0: all)");
  app.add_flag("--bos", bos, "put the beginning-of-text token before each window");
  app.add_option("--dtype", dtype, "of the computation")->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--activations", activations,
                 "quantized as the run trained them or the file's runtime does, or left in float")
      ->check(CLI::IsMember({"served", "float"}));
  app.add_option("--rows", rows, "windows at a time")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "0: all");
  add_options(app, adapter);
  app.add_flag("--json", as_json, "print one JSON object");
  return run_command(app, argc, argv, [&] {
    Store store;
    Stream stream(threads);
    ModelBundle bundle = open_model(model, store, cpu_kernels(), stream, adapter);
    if (activations == "float")
      for (auto& [path, quant] : bundle.plan.linears) quant.activation.reset();
    fill_rope_table(bundle.config, store, "");
    TokenizeOptions tokenize;
    tokenize.encoder = text_encoder(*bundle.tokenizer, bundle.config);
    tokenize.read.format = DataFormat::text;
    if (bos && bundle.tokenizer->bos_id() < 0)
      refuse("--bos: the tokenizer of {} has no beginning-of-text token", model);
    const auto windows = EvalWindows::open(text, tokenize,
                                           {.window = context,
                                            .max_windows = max_windows,
                                            .bos = bos ? bundle.tokenizer->bos_id() : -1});
    const ForwardSpec spec =
        forward_spec(bundle, store, dtype == "fp32" ? DType::f32 : DType::bf16);
    const Perplexity result =
        evaluate_perplexity(spec, store, cpu_kernels(), stream, windows, rows);
    if (as_json) {
      const nlohmann::ordered_json line = {{"model", model},
                                           {"text", text},
                                           {"context", context},
                                           {"windows", result.windows},
                                           {"tokens", result.tokens},
                                           {"nll", result.nll},
                                           {"perplexity", result.perplexity},
                                           {"quantized_linears", planned_linears(bundle.plan)},
                                           {"quantization", quantization_json(bundle.plan)}};
      std::printf("%s\n", line.dump().c_str());
    } else {
      for (const std::string& line : quantization_lines(bundle.plan))
        log::info("quantized as it is served: {}", line);
      std::printf("perplexity %.4f  (nll %.6f, %ld tokens in %ld windows of %ld)\n",
                  result.perplexity, result.nll, long(result.tokens), long(result.windows),
                  long(context));
    }
    return Exit::ok;
  });
}
