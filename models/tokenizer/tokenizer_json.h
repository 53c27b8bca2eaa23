// Reading a tokenizer.json (Hugging Face `tokenizers`, version 1.0, model BPE) into a pipeline.
#pragma once

#include <string>

#include "models/tokenizer/pipeline.h"

namespace qat {

/// name stands in front of errors. Refuses every model, normalizer, pre-tokenizer, post-processor
/// and decoder that cannot be followed exactly, by its name. truncation and padding are left alone:
/// transformers, too, sets them anew at every call.
PipelineParts read_tokenizer_json(std::string text, const std::string& name);

}  // namespace qat
