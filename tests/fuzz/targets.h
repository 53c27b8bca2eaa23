// The readers that are fuzzed, by the name of their target. Each function takes one input, whatever
// its bytes, says whether it was read as a whole, and throws only where a reader did what none may
// do.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace qat::fuzz {

bool fuzz_checkpoint(std::string_view input);  ///< manifest, rank files of several ranks
bool fuzz_chat(std::string_view input);        ///< a chat template, parsed and rendered
bool fuzz_directory(std::string_view input);   ///< a model or adapter directory of every format
bool fuzz_gguf(std::string_view input);        ///< a GGUF file: metadata, tensors, model, tokenizer
bool fuzz_json(std::string_view input);        ///< a JSON document
bool fuzz_recipe(std::string_view input);      ///< a recipe
bool fuzz_safetensors(std::string_view input);  ///< a safetensors file, or an index of shards
bool fuzz_tokenizer(
    std::string_view input);               ///< tokenizer.json or tokenizer.model, and its settings
bool fuzz_tokens(std::string_view input);  ///< a token file, or a text file of training data

struct Target {
  const char* name;
  bool (*run)(std::string_view input);
};
/// All of them, sorted by name.
std::span<const Target> targets();

/// Writes small, whole inputs of every target with the writers of the program: folder/TARGET/NAME.
void write_seeds(const std::string& folder);

}  // namespace qat::fuzz
