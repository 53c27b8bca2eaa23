// PipelineTokenizer.
#include "models/tokenizer/pipeline.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "engine/core/error.h"
#include "models/tokenizer/unicode.h"

namespace qat {

struct PipelineTokenizer::Work {
  BpeModel::Scratch scratch;
  std::vector<Segment> plain, normalized;
  std::string text;
};

namespace {

// Hands the pieces of one step to the next, and those of the last one to the model.
class Chain : public PieceSink {
 public:
  Chain(const PreTokenizerStep& step, PieceSink& next) : step_(step), next_(next) {}
  void take(std::string_view piece, Place place) override { step_.cut(piece, place, next_); }

 private:
  const PreTokenizerStep& step_;
  PieceSink& next_;
};

class ModelSink : public PieceSink {
 public:
  ModelSink(const BpeModel& model, BpeModel::Scratch& scratch, std::vector<int32_t>& ids)
      : model_(model), scratch_(scratch), ids_(ids) {}
  void take(std::string_view piece, Place) override { model_.encode(piece, scratch_, ids_); }

 private:
  const BpeModel& model_;
  BpeModel::Scratch& scratch_;
  std::vector<int32_t>& ids_;
};

}  // namespace

PipelineTokenizer::PipelineTokenizer(PipelineParts parts, TokenizerSettings settings)
    : parts_(std::move(parts)), settings_(std::move(settings)) {
  vocab_size_ = parts_.pieces.highest_id() + 1;
  for (const AddedToken& token : parts_.added)
    vocab_size_ = std::max(vocab_size_, int64_t(token.id) + 1);
  added_by_id_.assign(size_t(vocab_size_), -1);
  hidden_.assign(size_t(vocab_size_), false);
  std::vector<AddedTokenMatcher::Pattern> plain, normalized;
  for (size_t i = 0; i < parts_.added.size(); ++i) {
    const AddedToken& token = parts_.added[i];
    std::string storage;
    added_text_.emplace_back(token.normalized ? parts_.normalizer.apply(token.content, storage)
                                              : std::string_view(token.content));
    added_by_id_[size_t(token.id)] = int32_t(i);
    if (token.special) hidden_[size_t(token.id)] = added_text_[i] == token.content;
    (token.normalized ? normalized : plain).push_back({added_text_[i], &token});
  }
  plain_matcher_ = AddedTokenMatcher(plain);
  normalized_matcher_ = AddedTokenMatcher(normalized);
  fingerprint_ = XXH3_64bits(parts_.json.data(), parts_.json.size());
}

PipelineTokenizer::~PipelineTokenizer() = default;

std::unique_ptr<PipelineTokenizer::Work> PipelineTokenizer::take_work() const {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Work> work = std::move(idle_.back());
      idle_.pop_back();
      return work;
    }
  }
  return std::make_unique<Work>();
}

std::vector<int32_t> PipelineTokenizer::encode(std::string_view utf8) const {
  std::vector<int32_t> ids;
  encode_text(utf8, ids);
  return ids;
}

std::vector<int32_t> PipelineTokenizer::encode_with_special(std::string_view utf8) const {
  std::vector<int32_t> ids = parts_.before;
  encode_text(utf8, ids);
  ids.insert(ids.end(), parts_.after.begin(), parts_.after.end());
  return ids;
}

void PipelineTokenizer::encode_text(std::string_view text, std::vector<int32_t>& ids) const {
  std::string repaired;
  if (unicode::valid_prefix(text) != text.size()) {
    repaired = unicode::replace_invalid(text);
    text = repaired;
  }
  std::unique_ptr<Work> work = take_work();
  work->plain.clear();
  plain_matcher_.split(text, work->plain);
  for (const Segment& segment : work->plain) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const Place place = segment.text.data() == text.data() ? Place::first : Place::later;
    const std::string_view normalized = parts_.normalizer.apply(segment.text, work->text);
    work->normalized.clear();
    normalized_matcher_.split(normalized, work->normalized);
    for (const Segment& inner : work->normalized) {
      if (inner.id >= 0)
        ids.push_back(inner.id);
      else
        encode_segment(inner.text, inner.text.data() == normalized.data() ? place : Place::later,
                       *work, ids);
    }
  }
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(work));
}

void PipelineTokenizer::encode_segment(std::string_view text, Place place, Work& work,
                                       std::vector<int32_t>& ids) const {
  ModelSink model(*parts_.model, work.scratch, ids);
  // Chains point at each other, so they must not move: reserve before the first.
  std::vector<Chain> chain;
  chain.reserve(parts_.steps.size());
  PieceSink* next = &model;
  for (auto step = parts_.steps.rbegin(); step != parts_.steps.rend(); ++step)
    next = &chain.emplace_back(**step, *next);
  next->take(text, place);
}

std::string PipelineTokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size_ || (skip_special && hidden_[size_t(id)])) continue;
    const int32_t added = added_by_id_[size_t(id)];
    if (added >= 0)
      tokens.push_back(added_text_[size_t(added)]);
    else if (parts_.pieces.contains(id))
      tokens.emplace_back(parts_.pieces.piece(id));
  }
  return parts_.decoder.decode(std::move(tokens));
}

}  // namespace qat
