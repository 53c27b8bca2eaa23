// The parts of a tokenizer.json, one function each.
#include "models/tokenizer/tokenizer_json.h"

#include <unordered_map>
#include <utility>

#include "models/tokenizer/byte_level.h"
#include "models/tokenizer/json_fields.h"
#include "models/tokenizer/tokenizer_document.h"
#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

[[noreturn]] void refuse_kind(const Field& field, const std::string& what, const std::string& kind,
                              const char* supported) {
  refuse("{}: the {} '{}' cannot be followed exactly here; supported: {}", field.where, what, kind,
         supported);
}

std::string single_character(const Field& field) {
  const std::string& text = field.text();
  if (text.empty() || unicode::length_from_first_byte(text[0]) != text.size())
    field.refuse_type("a single character");
  return text;
}

// A pattern {"String": ..} as its text; {"Regex": ..} is for the caller.
std::string plain_pattern(const Field& field, const char* what) {
  if (field["Regex"].present())
    refuse(
        "{}: {} with a regular expression cannot be followed exactly here; only a plain string "
        "can",
        field.where, what);
  const std::string& text = field["String"].text();
  if (text.empty()) field.refuse_type("a pattern that is not empty");
  return text;
}

void read_normalizer(const Field& field, std::vector<NormalizerStep>& steps) {
  const std::string& type = field.type();
  if (type == "Sequence") {
    const Field list = field["normalizers"];
    for (size_t i = 0; i < list.list_size(); ++i) read_normalizer(list.item(i), steps);
  } else if (type == "NFC") {
    steps.push_back({NormalizerStep::Kind::nfc, "", ""});
  } else if (type == "Prepend") {
    steps.push_back({NormalizerStep::Kind::prepend, "", field["prepend"].text()});
  } else if (type == "Replace") {
    steps.push_back({NormalizerStep::Kind::replace, plain_pattern(field["pattern"], "Replace"),
                     field["content"].text()});
  } else {
    refuse_kind(field, "normalizer", type, "NFC, Prepend, Replace, Sequence");
  }
}

Behavior read_behavior(const Field& field) {
  const std::string& name = field.text();
  if (name == "Isolated") return Behavior::isolated;
  if (name == "Removed") return Behavior::removed;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  refuse(
      "{}: unknown behavior '{}'; expected Isolated, Removed, MergedWithPrevious, "
      "MergedWithNext or Contiguous",
      field.where, name);
}

PrependScheme read_prepend_scheme(const Field& field) {
  const bool add_prefix = field["add_prefix_space"].flag(true);
  const Field scheme = field["prepend_scheme"];
  const std::string name = scheme.present() ? scheme.text() : add_prefix ? "always" : "never";
  if (name != "first" && name != "never" && name != "always")
    refuse("{}: expected first, never or always, got '{}'", scheme.where, name);
  if (!add_prefix && name != "never")
    refuse("{}: add_prefix_space is false but prepend_scheme is {}", field.where, name);
  return name == "first"   ? PrependScheme::first
         : name == "never" ? PrependScheme::never
                           : PrependScheme::always;
}

struct PreTokenizer {
  std::vector<std::unique_ptr<PreTokenizerStep>> steps;
  bool byte_level = false;
};

void read_pre_tokenizer(const Field& field, PreTokenizer& out) {
  const std::string& type = field.type();
  if (out.byte_level && type != "Sequence")
    refuse("{}: '{}' comes after ByteLevel, which must be the last pre-tokenizer here", field.where,
           type);
  if (type == "Sequence") {
    const Field list = field["pretokenizers"];
    for (size_t i = 0; i < list.list_size(); ++i) read_pre_tokenizer(list.item(i), out);
  } else if (type == "ByteLevel") {
    out.byte_level = true;
    if (field["add_prefix_space"].flag(true)) out.steps.push_back(make_prefix_space_step());
    if (field["use_regex"].flag(true)) out.steps.push_back(make_known_regex_step(KnownRegex::gpt2));
  } else if (type == "Split") {
    const Behavior behavior = read_behavior(field["behavior"]);
    const Invert invert = field["invert"].flag(false) ? Invert::yes : Invert::no;
    const Field regex = field["pattern"]["Regex"];
    if (regex.present())
      out.steps.push_back(make_regex_step(regex.text(), behavior, invert, regex.where));
    else
      out.steps.push_back(
          make_string_step(plain_pattern(field["pattern"], "Split"), behavior, invert));
  } else if (type == "Digits") {
    out.steps.push_back(make_digits_step(
        field["individual_digits"].flag(false) ? DigitRuns::individual : DigitRuns::together));
  } else if (type == "Punctuation") {
    const Field behavior = field["behavior"];
    out.steps.push_back(
        make_punctuation_step(behavior.present() ? read_behavior(behavior) : Behavior::isolated));
  } else if (type == "Metaspace") {
    out.steps.push_back(
        make_metaspace_step(single_character(field["replacement"]), read_prepend_scheme(field),
                            field["split"].flag(true) ? MarkSplit::before_each : MarkSplit::none));
  } else {
    refuse_kind(field, "pre-tokenizer", type,
                "ByteLevel, Split, Digits, Punctuation, Metaspace, Sequence");
  }
}

void read_decoder(const Field& field, std::vector<DecoderStep>& steps) {
  const std::string& type = field.type();
  DecoderStep step;
  if (type == "Sequence") {
    const Field list = field["decoders"];
    for (size_t i = 0; i < list.list_size(); ++i) read_decoder(list.item(i), steps);
    return;
  } else if (type == "ByteLevel") {
    step.kind = DecoderStep::Kind::byte_level;
  } else if (type == "ByteFallback") {
    step.kind = DecoderStep::Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = DecoderStep::Kind::fuse;
  } else if (type == "Replace") {
    step.kind = DecoderStep::Kind::replace;
    step.pattern = plain_pattern(field["pattern"], "Replace");
    step.content = field["content"].text();
  } else if (type == "Strip") {
    step.kind = DecoderStep::Kind::strip;
    step.pattern = single_character(field["content"]);
    for (const auto& [key, count] :
         {std::pair{"start", &step.strip_start}, std::pair{"stop", &step.strip_stop}}) {
      const int64_t value = field[key].integer();
      if (value < 0) field[key].refuse_type("a count");
      *count = size_t(value);
    }
  } else if (type == "Metaspace") {
    step.kind = DecoderStep::Kind::metaspace;
    step.pattern = single_character(field["replacement"]);
    step.drops_first_mark = read_prepend_scheme(field) != PrependScheme::never;
  } else {
    refuse_kind(field, "decoder", type,
                "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, Sequence");
  }
  steps.push_back(std::move(step));
}

int32_t checked_id(const Field& field) {
  const int64_t id = field.integer();
  if (id < 0 || id > Vocabulary::kMaxId)
    refuse("{}: token id {} is not between 0 and {}", field.where, id, Vocabulary::kMaxId);
  return int32_t(id);
}

// What stands around one text: nothing (ByteLevel only trims offsets), a template, [CLS] and [SEP].
void read_post_processor(const Field& field, PipelineParts& parts) {
  const std::string& type = field.type();
  const auto claim = [&] {
    if (!parts.before.empty() || !parts.after.empty())
      refuse("{}: a second post-processor that adds tokens cannot be followed exactly here",
             field.where);
  };
  if (type == "Sequence") {
    const Field list = field["processors"];
    for (size_t i = 0; i < list.list_size(); ++i) read_post_processor(list.item(i), parts);
  } else if (type == "TemplateProcessing") {
    claim();
    const Field single = field["single"];
    int texts = 0;
    for (size_t i = 0; i < single.list_size(); ++i) {
      const Field piece = single.item(i);
      if (piece["Sequence"].present()) {
        if (piece["Sequence"]["id"].text() != "A" || ++texts > 1)
          refuse("{}: the template must hold the text $A exactly once", single.where);
        continue;
      }
      const std::string& name = piece["SpecialToken"]["id"].text();
      const Field ids = field["special_tokens"][name]["ids"];
      for (size_t k = 0; k < ids.list_size(); ++k)
        (texts == 0 ? parts.before : parts.after).push_back(checked_id(ids.item(k)));
    }
    if (texts != 1) refuse("{}: the template must hold the text $A exactly once", single.where);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    claim();
    parts.before.push_back(checked_id(field["cls"].item(1)));
    parts.after.push_back(checked_id(field["sep"].item(1)));
  } else if (type != "ByteLevel") {
    refuse_kind(field, "post-processor", type,
                "TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing, Sequence");
  }
}

std::vector<MergeRule> read_merges(const TokenizerDocument& document, const std::string& name) {
  const MergeTexts& texts = document.merges;
  std::vector<MergeRule> merges(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    for (const auto& [piece, id] :
         {std::pair{texts.left(i), &merges[i].left}, std::pair{texts.right(i), &merges[i].right},
          std::pair{texts.whole(i), &merges[i].id}}) {
      *id = document.pieces.find(piece);
      if (*id < 0)
        refuse(
            "{}.model.merges[{}]: merge '{} {}' needs the piece '{}', which is not in model.vocab",
            name, i, texts.left(i), texts.right(i), piece);
    }
  }
  return merges;
}

// The vocabulary as raw bytes. Pieces outside the byte-level alphabet cannot come out of any text,
// nor can merges that use one.
Vocabulary bytes_vocabulary(const Vocabulary& pieces) {
  Vocabulary raw(pieces.count());
  std::string bytes;
  for (int64_t id = 0; id <= pieces.highest_id(); ++id) {
    if (!pieces.contains(id)) continue;
    bytes.clear();
    if (byte_level::append_bytes(pieces.piece(id), bytes)) raw.add(bytes, id);
  }
  return raw;
}

void check_model_options(const Field& model) {
  const Field type = model["type"];
  if (type.present() && type.text() != "BPE")
    refuse_kind(model, "model", type.text(),
                "BPE (a Unigram model can be read from its "
                "tokenizer.model instead)");
  const Field dropout = model["dropout"];
  if (dropout.present() && (!dropout.value->is_number() || dropout.value->get<double>() != 0))
    refuse("{}: dropout makes ids random; set it to null", dropout.where);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (model[key].present() && !model[key].text().empty())
      refuse("{}: '{}' cannot be followed exactly here; only null can", model[key].where,
             model[key].text());
}

void read_model(const Field& model, TokenizerDocument& document, bool byte_level,
                const std::string& name, PipelineParts& parts) {
  if (!document.has_vocab) model["vocab"].refuse_type("an object");
  if (!document.has_merges) model["merges"].refuse_type("a list");
  const std::vector<MergeRule> merges = read_merges(document, name);
  parts.pieces = std::move(document.pieces);
  document.merges = MergeTexts();
  BpeOptions options;
  options.symbols = byte_level ? BpeOptions::Symbols::bytes : BpeOptions::Symbols::characters;
  options.byte_fallback = model["byte_fallback"].flag(false);
  options.fuse_unknown = model["fuse_unk"].flag(false);
  options.ignore_merges = model["ignore_merges"].flag(false);
  const Field unknown = model["unk_token"];
  if (unknown.present()) options.unknown_id = parts.pieces.find(unknown.text());
  parts.model = std::make_unique<BpeModel>(
      byte_level ? bytes_vocabulary(parts.pieces) : parts.pieces, merges, options);
  if (unknown.present() && options.unknown_id < 0 && !parts.model->covers_all_bytes())
    refuse("{}: '{}' is not in model.vocab", unknown.where, unknown.text());
  if (byte_level && options.byte_fallback && !parts.model->covers_all_bytes())
    refuse(
        "{}.byte_fallback: with ByteLevel and a vocabulary that lacks bytes it cannot be "
        "followed exactly here",
        model.where);
}

// Ids follow from the vocabulary and the order of the list, as in Hugging Face `tokenizers`; an
// "id" that says otherwise is refused rather than ignored.
void read_added_tokens(const Field& list, PipelineParts& parts) {
  if (!list.present()) return;
  std::unordered_map<std::string, size_t> known;
  int64_t next = int64_t(parts.pieces.count());
  for (size_t i = 0; i < list.list_size(); ++i) {
    const Field field = list.item(i);
    AddedToken token;
    token.content = field["content"].text();
    token.single_word = field["single_word"].flag(false);
    token.lstrip = field["lstrip"].flag(false);
    token.rstrip = field["rstrip"].flag(false);
    token.normalized = field["normalized"].flag(true);
    token.special = field["special"].flag(false);
    if (token.content.empty()) continue;
    const auto found = known.find(token.content);
    if (found != known.end()) {
      token.id = parts.added[found->second].id;
      token.special = token.special || parts.added[found->second].special;
      parts.added[found->second] = token;
      continue;
    }
    token.id = parts.pieces.find(token.content);
    if (token.id < 0) token.id = int32_t(next++);
    if (checked_id(field["id"]) != token.id)
      refuse("{}: '{}' is listed with id {}, but Hugging Face tokenizers would give it {}",
             field.where, token.content, field["id"].integer(), token.id);
    known[token.content] = parts.added.size();
    parts.added.push_back(std::move(token));
  }
}

void check_normalized_tokens(const std::string& name, const PipelineParts& parts) {
  std::unordered_map<std::string, std::string> seen;
  for (const AddedToken& token : parts.added) {
    if (!token.normalized) continue;
    std::string storage;
    const std::string text(parts.normalizer.apply(token.content, storage));
    if (!seen.emplace(text, token.content).second)
      refuse("{}: added tokens '{}' and '{}' are the same once normalized", name, seen[text],
             token.content);
  }
}

}  // namespace

PipelineParts read_tokenizer_json(std::string text, const std::string& name) {
  PipelineParts parts;
  TokenizerDocument document = parse_tokenizer_document(text, name);
  const Field root{&document.rest, name};
  const Field version = root["version"];
  if (version.present() && version.text() != "1.0")
    refuse("{}: expected \"1.0\", got \"{}\"", version.where, version.text());
  if (!root["model"].present()) refuse("{}: has no model", name);
  if (root["normalizer"].present()) {
    std::vector<NormalizerStep> steps;
    read_normalizer(root["normalizer"], steps);
    parts.normalizer = Normalizer(std::move(steps));
  }
  check_model_options(root["model"]);
  PreTokenizer pre_tokenizer;
  if (root["pre_tokenizer"].present()) read_pre_tokenizer(root["pre_tokenizer"], pre_tokenizer);
  parts.steps = std::move(pre_tokenizer.steps);
  read_model(root["model"], document, pre_tokenizer.byte_level, name, parts);
  read_added_tokens(root["added_tokens"], parts);
  check_normalized_tokens(name, parts);
  if (root["post_processor"].present()) read_post_processor(root["post_processor"], parts);
  if (root["decoder"].present()) {
    std::vector<DecoderStep> steps;
    read_decoder(root["decoder"], steps);
    parts.decoder = Decoder(std::move(steps));
  }
  parts.json = std::move(text);
  return parts;
}

}  // namespace qat
