// Evaluation windows; see the header.
#include "engine/data/eval_windows.h"

#include <algorithm>

#include "engine/core/error.h"

namespace qat {

EvalWindows EvalWindows::open(const std::string& path, const TokenizeOptions& tokenize,
                              const EvalOptions& options) {
  return EvalWindows(path, open_tokens(path, tokenize, Records::joined), options);
}

EvalWindows::EvalWindows(std::string path, std::shared_ptr<const TokenFile> tokens,
                         const EvalOptions& options)
    : tokens_(std::move(tokens)), options_(options) {
  const int64_t shortest = options_.bos >= 0 ? 1 : 2;
  if (options_.window < shortest) {
    refuse("evaluation windows of {} tokens; at least {} are needed to score one", options_.window,
           shortest);
  }
  windows_ = int64_t(tokens_->info().tokens) / options_.window;
  if (windows_ == 0) {
    refuse(
        "{}: {} tokens of text do not fill one window of {}; use a longer text or a shorter window",
        path, tokens_->info().tokens, options_.window);
  }
  if (options_.max_windows > 0) windows_ = std::min(windows_, options_.max_windows);
}

Batch EvalWindows::rows(int64_t begin, int64_t rows) const {
  if (begin < 0 || begin > windows_) internal_error("window {} of {}", begin, windows_);
  Batch batch;
  batch.rows = std::clamp<int64_t>(rows, 0, windows_ - begin);
  batch.sequence = row_tokens();
  const size_t length = size_t(batch.sequence);
  const size_t text = size_t(options_.window);
  for (int64_t i = 0; i < batch.rows; ++i) {
    std::vector<int32_t> ids(length, options_.bos);
    tokens_->read(uint64_t(begin + i) * text, std::span(ids).subspan(length - text));
    batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
    batch.targets.insert(batch.targets.end(), ids.begin() + 1, ids.end());
    batch.targets.push_back(-1);
    for (size_t t = 0; t < length; ++t) batch.positions.push_back(int32_t(t));
    batch.samples.push_back(uint64_t(begin + i));
  }
  batch.first.assign(batch.ids.size(), 0);
  batch.valid_targets = batch.rows * (batch.sequence - 1);
  return batch;
}

}  // namespace qat
