// SentencePieceTokenizer.
#include "models/tokenizer/sentencepiece_model.h"

#include <sentencepiece_processor.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "models/tokenizer/added_tokens.h"
#include "models/tokenizer/decoder.h"
#include "models/tokenizer/json_fields.h"
#include "models/tokenizer/sentencepiece_proto.h"
#include "models/tokenizer/settings.h"
#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

constexpr size_t kModelBytes = size_t(128) << 20;
constexpr const char* kMark = "\xE2\x96\x81";

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& path, const std::string& directory) : path_(path) {
    const std::string bytes = read_text_file(path, kModelBytes);
    proto_ = read_sentencepiece_proto(bytes, path);
    if (proto_.pieces.empty()) refuse("{}: holds no pieces", path);
    const auto status = processor_.LoadFromSerializedProto(bytes);
    if (!status.ok()) refuse("{}: cannot be loaded: {}", path, one_line(status.message()));
    find_added_tokens();
    decoder_ = make_decoder();
    settings_ = read_settings(directory, [&](std::string_view token) { return find(token); });
    if (settings_.bos_id < 0) settings_.bos_id = processor_.bos_id();
    if (settings_.eos_id < 0) settings_.eos_id = processor_.eos_id();
    read_additions(directory);
    const auto text = [&](int id) {
      return id < 0 || id >= vocab_size() ? std::string() : proto_.pieces[size_t(id)];
    };
    if (settings_.config_json.empty())
      settings_.config_json = write_config_json(text(settings_.bos_id), text(settings_.eos_id),
                                                text(processor_.unk_id()),
                                                text(processor_.pad_id()), settings_.chat_template);
    fingerprint_ =
        XXH3_64bits(bytes.data(), bytes.size()) ^ (adds_bos_ ? 1 : 0) ^ (adds_eos_ ? 2 : 0);
  }

  std::vector<int32_t> encode(std::string_view utf8) const override {
    std::vector<int32_t> ids;
    append(utf8, ids);
    return ids;
  }

  std::vector<int32_t> encode_with_special(std::string_view utf8) const override {
    std::vector<int32_t> ids;
    if (adds_bos_ && settings_.bos_id >= 0) ids.push_back(settings_.bos_id);
    append(utf8, ids);
    if (adds_eos_ && settings_.eos_id >= 0) ids.push_back(settings_.eos_id);
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) continue;
      const PieceType type = proto_.types[size_t(id)];
      const bool special = type == PieceType::control || type == PieceType::unknown;
      if (!special || !skip_special) tokens.push_back(proto_.pieces[size_t(id)]);
    }
    return decoder_.decode(std::move(tokens));
  }

  int64_t vocab_size() const override { return int64_t(proto_.pieces.size()); }
  int32_t bos_id() const override { return settings_.bos_id; }
  int32_t eos_id() const override { return settings_.eos_id; }
  const std::string& chat_template() const override { return settings_.chat_template; }
  uint64_t fingerprint() const override { return fingerprint_; }
  std::string config_json() const override { return settings_.config_json; }

  std::string to_json() const override {
    const auto need = [&](bool condition, const char* what) {
      if (!condition)
        refuse("{}: cannot be written as tokenizer.json because it {}; copy the tokenizer.model",
               path_, what);
    };
    need(proto_.model == SentencePieceProto::Model::bpe, "is not a BPE model");
    need(proto_.byte_fallback, "has no byte fallback");
    need(!proto_.has_character_map, "normalizes characters");
    need(!proto_.removes_extra_spaces, "removes extra spaces");
    need(proto_.escapes_spaces && !proto_.space_at_word_end, "treats spaces in its own way");
    ScoredVocabulary vocabulary{
        proto_.pieces, proto_.scores, proto_.types, proto_.adds_space_prefix, {}, {}};
    if (adds_bos_ && settings_.bos_id >= 0) vocabulary.before.push_back(settings_.bos_id);
    if (adds_eos_ && settings_.eos_id >= 0) vocabulary.after.push_back(settings_.eos_id);
    return scored_vocabulary_json(vocabulary, path_);
  }

 private:
  static std::string one_line(const char* text) {
    std::string line(text);
    std::replace(line.begin(), line.end(), '\n', ' ');
    return line;
  }

  int32_t find(std::string_view token) const {
    const auto found = std::find(proto_.pieces.begin(), proto_.pieces.end(), token);
    return found == proto_.pieces.end() ? -1 : int32_t(found - proto_.pieces.begin());
  }

  // The library finds user-defined pieces by itself; control pieces it never finds in a text.
  void find_added_tokens() {
    for (size_t id = 0; id < proto_.pieces.size(); ++id) {
      const PieceType type = proto_.types[id];
      if (type != PieceType::control && type != PieceType::unknown) continue;
      AddedToken token;
      token.content = proto_.pieces[id];
      token.id = int32_t(id);
      token.special = true;
      if (!token.content.empty()) added_.push_back(std::move(token));
    }
    std::vector<AddedTokenMatcher::Pattern> patterns;
    for (const AddedToken& token : added_) patterns.push_back({token.content, &token});
    matcher_ = AddedTokenMatcher(patterns);
  }

  Decoder make_decoder() const {
    using Kind = DecoderStep::Kind;
    std::vector<DecoderStep> steps;
    steps.push_back({Kind::replace, kMark, " ", 0, 0, false});
    steps.push_back({Kind::byte_fallback, {}, {}, 0, 0, false});
    steps.push_back({Kind::fuse, {}, {}, 0, 0, false});
    if (proto_.adds_space_prefix) steps.push_back({Kind::strip, " ", {}, 1, 0, false});
    return Decoder(std::move(steps));
  }

  void read_additions(const std::string& directory) {
    const std::string path = (std::filesystem::path(directory) / "tokenizer_config.json").string();
    if (!std::filesystem::exists(path)) return;
    const Json document = read_json_file(path);
    const Field root{&document, path};
    adds_bos_ = root["add_bos_token"].flag(true);
    adds_eos_ = root["add_eos_token"].flag(false);
  }

  void append(std::string_view text, std::vector<int32_t>& ids) const {
    std::string repaired;
    if (unicode::valid_prefix(text) != text.size()) {
      repaired = unicode::replace_invalid(text);
      text = repaired;
    }
    std::vector<Segment> segments;
    matcher_.split(text, segments);
    std::vector<int> part;
    for (const Segment& segment : segments) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
        continue;
      }
      const auto status = processor_.Encode({segment.text.data(), segment.text.size()}, &part);
      if (!status.ok()) refuse("{}: cannot encode a text: {}", path_, one_line(status.message()));
      ids.insert(ids.end(), part.begin(), part.end());
    }
  }

  std::string path_;
  SentencePieceProto proto_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<AddedToken> added_;
  AddedTokenMatcher matcher_;
  Decoder decoder_;
  TokenizerSettings settings_;
  bool adds_bos_ = true, adds_eos_ = false;  // Hugging Face's defaults for these models
  uint64_t fingerprint_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> open_sentencepiece(const std::string& path,
                                              const std::string& directory) {
  return std::make_unique<SentencePieceTokenizer>(path, directory);
}

}  // namespace qat
