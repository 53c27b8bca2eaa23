// tokenizer.model files (SentencePiece): encoded by the sentencepiece library, with the special
// tokens written in a text recognised as Hugging Face does.
#pragma once

#include <memory>
#include <string>

#include "models/tokenizer/tokenizer.h"

namespace qat {

/// path: the tokenizer.model; directory: where its tokenizer_config.json and the like may be.
std::unique_ptr<Tokenizer> open_sentencepiece(const std::string& path,
                                              const std::string& directory);

}  // namespace qat
