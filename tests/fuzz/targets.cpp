#include "tests/fuzz/targets.h"

namespace qat::fuzz {

std::span<const Target> targets() {
  static constexpr Target kTargets[] = {{"chat", fuzz_chat},
                                        {"checkpoint", fuzz_checkpoint},
                                        {"directory", fuzz_directory},
                                        {"gguf", fuzz_gguf},
                                        {"json", fuzz_json},
                                        {"recipe", fuzz_recipe},
                                        {"safetensors", fuzz_safetensors},
                                        {"tokenizer", fuzz_tokenizer},
                                        {"tokens", fuzz_tokens}};
  return kTargets;
}

}  // namespace qat::fuzz
