// The simple steps: strings, digits, punctuation, spaces. Regular expressions live elsewhere.
#include "models/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

Place place_of(size_t begin, Place place) {
  return begin == 0 ? place : Place::later;
}

// Parts of single characters of a class, and what lies between.
class ClassStep : public PreTokenizerStep {
 public:
  ClassStep(unicode::Class wanted, Behavior behavior) : wanted_(wanted), behavior_(behavior) {}

  void cut(std::string_view text, Place place, PieceSink& sink) const override {
    const uint8_t* classes = unicode::classes();
    std::vector<Part> parts;
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const unicode::Character character = unicode::decode(text.data() + at);
      if (classes[character.code] & wanted_) {
        if (behavior_ == Behavior::isolated) {
          if (begin < at) sink.take(text.substr(begin, at - begin), place_of(begin, place));
          sink.take(text.substr(at, character.bytes), place_of(at, place));
        } else {
          if (begin < at) parts.push_back({begin, at, false});
          parts.push_back({at, at + character.bytes, true});
        }
        begin = at + character.bytes;
      }
      at += character.bytes;
    }
    if (behavior_ != Behavior::isolated) {
      if (begin < text.size()) parts.push_back({begin, text.size(), false});
      emit_parts(text, place, parts, behavior_, sink);
    } else if (begin < text.size()) {
      sink.take(text.substr(begin), place_of(begin, place));
    }
  }

 private:
  unicode::Class wanted_;
  Behavior behavior_;
};

class StringStep : public PreTokenizerStep {
 public:
  StringStep(std::string pattern, Behavior behavior, Invert invert)
      : pattern_(std::move(pattern)), behavior_(behavior), inverted_(invert == Invert::yes) {}

  void cut(std::string_view text, Place place, PieceSink& sink) const override {
    std::vector<Part> parts;
    size_t begin = 0;
    for (size_t at = text.find(pattern_); at != std::string_view::npos;
         at = text.find(pattern_, begin)) {
      if (begin < at) parts.push_back({begin, at, inverted_});
      begin = at + pattern_.size();
      parts.push_back({at, begin, !inverted_});
    }
    if (begin < text.size()) parts.push_back({begin, text.size(), inverted_});
    emit_parts(text, place, parts, behavior_, sink);
  }

 private:
  std::string pattern_;
  Behavior behavior_;
  bool inverted_;
};

class PrefixSpaceStep : public PreTokenizerStep {
 public:
  void cut(std::string_view text, Place place, PieceSink& sink) const override {
    if (text.starts_with(' ')) {
      sink.take(text, place);
      return;
    }
    std::string longer;
    longer.reserve(text.size() + 1);
    longer += ' ';
    longer += text;
    sink.take(longer, place);
  }
};

class MetaspaceStep : public PreTokenizerStep {
 public:
  MetaspaceStep(std::string mark, PrependScheme scheme, MarkSplit split)
      : mark_(std::move(mark)), scheme_(scheme), splits_(split == MarkSplit::before_each) {}

  void cut(std::string_view text, Place place, PieceSink& sink) const override {
    std::string marked;
    marked.reserve(text.size() + text.size() / 2 + mark_.size());
    const bool wants_mark = scheme_ == PrependScheme::always ||
                            (scheme_ == PrependScheme::first && place == Place::first);
    if (wants_mark && !text.starts_with(' ') && !text.starts_with(mark_)) marked += mark_;
    for (const char byte : text) {
      if (byte == ' ')
        marked += mark_;
      else
        marked += byte;
    }
    if (!splits_) {
      sink.take(marked, place);
      return;
    }
    size_t begin = 0;
    const std::string_view all = marked;
    for (size_t at = all.find(mark_, 1); at != std::string_view::npos;
         at = all.find(mark_, at + mark_.size())) {
      sink.take(all.substr(begin, at - begin), place_of(begin, place));
      begin = at;
    }
    sink.take(all.substr(begin), place_of(begin, place));
  }

 private:
  std::string mark_;
  PrependScheme scheme_;
  bool splits_;
};

}  // namespace

void emit_parts(std::string_view text, Place place, std::vector<Part>& parts, Behavior behavior,
                PieceSink& sink) {
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end) sink.take(text.substr(begin, end - begin), place_of(begin, place));
  };
  switch (behavior) {
    case Behavior::isolated:
      for (const Part& part : parts) emit(part.begin, part.end);
      return;
    case Behavior::removed:
      for (const Part& part : parts)
        if (!part.matched) emit(part.begin, part.end);
      return;
    case Behavior::contiguous:
    case Behavior::merged_with_previous: {
      // contiguous joins equals; merged_with_previous joins a match to what stands before it,
      // unless that is a match too.
      std::vector<Part> joined;
      bool previous = false;
      for (const Part& part : parts) {
        const bool joins =
            behavior == Behavior::contiguous ? part.matched == previous : part.matched && !previous;
        if (joins && !joined.empty())
          joined.back().end = part.end;
        else
          joined.push_back(part);
        previous = part.matched;
      }
      for (const Part& part : joined) emit(part.begin, part.end);
      return;
    }
    case Behavior::merged_with_next: {
      std::vector<Part> joined;
      bool next = false;
      std::reverse(parts.begin(), parts.end());
      for (const Part& part : parts) {
        if (part.matched && !next && !joined.empty())
          joined.back().begin = part.begin;
        else
          joined.push_back(part);
        next = part.matched;
      }
      std::reverse(joined.begin(), joined.end());
      for (const Part& part : joined) emit(part.begin, part.end);
      return;
    }
  }
}

std::unique_ptr<PreTokenizerStep> make_string_step(const std::string& pattern, Behavior behavior,
                                                   Invert invert) {
  return std::make_unique<StringStep>(pattern, behavior, invert);
}

std::unique_ptr<PreTokenizerStep> make_digits_step(DigitRuns runs) {
  return std::make_unique<ClassStep>(
      unicode::kNumeric, runs == DigitRuns::individual ? Behavior::isolated : Behavior::contiguous);
}

std::unique_ptr<PreTokenizerStep> make_punctuation_step(Behavior behavior) {
  return std::make_unique<ClassStep>(unicode::kPunctuation, behavior);
}

std::unique_ptr<PreTokenizerStep> make_prefix_space_step() {
  return std::make_unique<PrefixSpaceStep>();
}

std::unique_ptr<PreTokenizerStep> make_metaspace_step(const std::string& mark, PrependScheme scheme,
                                                      MarkSplit split) {
  return std::make_unique<MetaspaceStep>(mark, scheme, split);
}

}  // namespace qat
