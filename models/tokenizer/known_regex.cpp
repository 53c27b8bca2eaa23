// Hand-written splitters for the regular expressions of GPT-2, Llama 3 and Qwen2. Each follows its
// alternatives in order; every character is a letter, a number, white space or something else, so
// some alternative always matches and nothing lies between matches.
#include <cstring>

#include "models/tokenizer/pre_tokenizer.h"
#include "models/tokenizer/unicode.h"

namespace qat {

const std::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr uint8_t kKinds = unicode::kLetter | unicode::kNumber | unicode::kSpace;

// Reads characters with their class; `kind` is one of the three bits, or 0 for anything else.
class Reader {
 public:
  Reader(std::string_view text) : end_(text.data() + text.size()), classes_(unicode::classes()) {}

  const char* end() const { return end_; }
  uint8_t kind(const char* at) const {
    const auto byte = static_cast<unsigned char>(*at);
    return (byte < 0x80 ? classes_[byte] : classes_[unicode::decode(at).code]) & kKinds;
  }
  // The end of the run of characters of a kind that begins at `at`.
  const char* run(const char* at, uint8_t wanted) const {
    while (at < end_ && kind(at) == wanted) at += unicode::length_from_first_byte(*at);
    return at;
  }

 private:
  const char* end_;
  const uint8_t* classes_;
};

// Length of a contraction behind the apostrophe at `at`, 0 if there is none.
template <bool kAnyCase>
size_t contraction(const char* at, const char* end) {
  const auto letter = [&](size_t i) -> char {
    if (at + i >= end) return '\0';
    return kAnyCase && at[i] >= 'A' && at[i] <= 'Z' ? char(at[i] + ('a' - 'A')) : at[i];
  };
  const char first = letter(1), second = first == '\0' ? '\0' : letter(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  // U+017F, the long s, folds to s.
  if (kAnyCase && end - at >= 3 && std::memcmp(at + 1, "\xC5\xBF", 2) == 0) return 3;
  return 0;
}

// `\s+(?!\S)|\s+` at white space that runs to `stop`: a run in front of something leaves its last
// character to that something.
const char* spaces_end(const Reader& reader, const char* at, const char* stop) {
  if (stop == reader.end()) return stop;
  const char* last = unicode::previous(at, stop);
  return last == at ? stop : last;
}

const char* gpt2_end(const Reader& reader, const char* at) {
  if (*at == '\'') {
    const size_t length = contraction<false>(at, reader.end());
    if (length > 0) return at + length;
  }
  const char* body = *at == ' ' && at + 1 < reader.end() ? at + 1 : at;
  uint8_t kind = reader.kind(body);
  if (kind == unicode::kSpace && body != at) body = at;
  kind = reader.kind(body);
  const char* stop = reader.run(body, kind);
  return kind == unicode::kSpace ? spaces_end(reader, at, stop) : stop;
}

// Llama 3 and Qwen2 differ in how many digits go together.
template <int kDigits>
const char* llama3_end(const Reader& reader, const char* at) {
  const char* const end = reader.end();
  if (*at == '\'') {
    const size_t length = contraction<true>(at, end);
    if (length > 0) return at + length;
  }
  const uint8_t kind = reader.kind(at);
  if (kind == unicode::kLetter) return reader.run(at, kind);
  const char* next = at + unicode::length_from_first_byte(*at);
  if (kind == unicode::kNumber) {
    for (int i = 1; i < kDigits && next < end && reader.kind(next) == kind; ++i)
      next += unicode::length_from_first_byte(*next);
    return next;
  }
  const bool newline = *at == '\r' || *at == '\n';
  const uint8_t next_kind = next < end ? reader.kind(next) : uint8_t(unicode::kSpace);
  if (!newline && next_kind == unicode::kLetter) return reader.run(next, unicode::kLetter);
  if (kind == 0 || (*at == ' ' && next_kind == 0)) {
    const char* stop = reader.run(kind == 0 ? at : next, 0);
    while (stop < end && (*stop == '\r' || *stop == '\n')) ++stop;
    return stop;
  }
  const char* stop = reader.run(at, unicode::kSpace);
  for (const char* p = stop; p > at; --p)
    if (p[-1] == '\r' || p[-1] == '\n') return p;
  return spaces_end(reader, at, stop);
}

template <KnownRegex kRegex>
class KnownRegexStep : public PreTokenizerStep {
 public:
  void cut(std::string_view text, Place place, PieceSink& sink) const override {
    const Reader reader(text);
    for (const char* at = text.data(); at < reader.end();) {
      const char* stop = nullptr;
      if constexpr (kRegex == KnownRegex::gpt2) stop = gpt2_end(reader, at);
      if constexpr (kRegex == KnownRegex::llama3) stop = llama3_end<3>(reader, at);
      if constexpr (kRegex == KnownRegex::qwen2) stop = llama3_end<1>(reader, at);
      sink.take({at, size_t(stop - at)}, place);
      place = Place::later;
      at = stop;
    }
  }
};

}  // namespace

std::unique_ptr<PreTokenizerStep> make_known_regex_step(KnownRegex regex) {
  switch (regex) {
    case KnownRegex::gpt2:
      return std::make_unique<KnownRegexStep<KnownRegex::gpt2>>();
    case KnownRegex::llama3:
      return std::make_unique<KnownRegexStep<KnownRegex::llama3>>();
    case KnownRegex::qwen2:
      return std::make_unique<KnownRegexStep<KnownRegex::qwen2>>();
  }
  return nullptr;
}

}  // namespace qat
