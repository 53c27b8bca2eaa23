// Tokenizer::open: which reader a path is for.
#include <filesystem>

#include "engine/core/error.h"
#include "engine/io/gguf.h"
#include "engine/io/json.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "models/tokenizer/pipeline.h"
#include "models/tokenizer/sentencepiece_model.h"
#include "models/tokenizer/tokenizer.h"
#include "models/tokenizer/tokenizer_json.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

std::unique_ptr<Tokenizer> open_json(const std::string& path, const std::string& directory) {
  PipelineParts parts = read_tokenizer_json(read_text_file(path, JsonLimits().bytes), path);
  const auto find = [&](std::string_view token) -> int32_t {
    for (const AddedToken& added : parts.added)
      if (added.content == token) return added.id;
    return parts.pieces.find(token);
  };
  TokenizerSettings settings = read_settings(directory, find);
  const auto text = [&](int32_t id) -> std::string {
    for (const AddedToken& added : parts.added)
      if (added.id == id) return added.content;
    return parts.pieces.contains(id) ? std::string(parts.pieces.piece(id)) : "";
  };
  if (settings.config_json.empty())
    settings.config_json = write_config_json(text(settings.bos_id), text(settings.eos_id), "", "",
                                             settings.chat_template);
  return std::make_unique<PipelineTokenizer>(std::move(parts), std::move(settings));
}

std::unique_ptr<Tokenizer> open_gguf(const std::string& path) {
  GgufTokenizer source = read_gguf_tokenizer(*GgufFile::open(path));
  return std::make_unique<PipelineTokenizer>(read_tokenizer_json(std::move(source.json), path),
                                             std::move(source.settings));
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::open(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    if (!fs::exists(path, ignored))
      refuse(
          "{}: no such file or directory; expected a folder with tokenizer.json or "
          "tokenizer.model, or a .gguf file",
          path);
    if (fs::path(path).extension() == ".gguf") return open_gguf(path);
    refuse("{}: expected a folder with tokenizer.json or tokenizer.model, or a .gguf file", path);
  }
  const fs::path json = fs::path(path) / "tokenizer.json";
  const fs::path model = fs::path(path) / "tokenizer.model";
  if (fs::exists(json, ignored)) return open_json(json.string(), path);
  if (fs::exists(model, ignored)) return open_sentencepiece(model.string(), path);
  for (const char* other : {"vocab.json", "vocab.txt", "spiece.model"})
    if (fs::exists(fs::path(path) / other, ignored))
      refuse(
          "{}: holds {} but neither tokenizer.json nor tokenizer.model; save it with "
          "AutoTokenizer.from_pretrained(..).save_pretrained(..) to get a tokenizer.json",
          path, other);
  refuse("{}: holds neither tokenizer.json nor tokenizer.model", path);
}

}  // namespace qat
