// A tokenizer as the tokenizer.ggml.* keys of a GGUF file.
#pragma once

#include <vector>

#include "engine/io/gguf_write.h"
#include "models/config.h"
#include "models/tokenizer/tokenizer.h"

namespace qat {

/// Byte-level BPE becomes model `gpt2`, with the pre-tokenizer's name found by its steps; BPE with
/// byte fallback becomes `llama`, scored by the order of its merges. null: model `none`. Refuses,
/// by what is in the way, a tokenizer that llama.cpp would not follow. Known to differ there: text
/// that is not in NFC (llama.cpp does not normalize), and with Metaspace's prepend_scheme `first`
/// text that begins with a space or follows a special token (llama.cpp marks both).
std::vector<GgufKey> tokenizer_keys(const Tokenizer* tokenizer, const ModelConfig& config);

/// Says in the log which added tokens llama.cpp finds elsewhere than we do: it knows no white space
/// around them (lstrip, rstrip) and no word limits (single_word).
void warn_about_added_tokens(const Tokenizer& tokenizer);

}  // namespace qat
