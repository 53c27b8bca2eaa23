// Evaluation text as consecutive windows of N tokens, the way perplexity is measured everywhere in
// this project: the text is encoded as one string without special tokens (records of a .jsonl
// joined by a blank line), the trailing partial window is dropped, the first token of a window is
// not scored.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/data/batch.h"
#include "engine/data/tokenize.h"

namespace qat {

struct EvalOptions {
  int64_t window = 512;     ///< tokens of text in a window
  int64_t max_windows = 0;  ///< only the first so many; 0 = all
  /// Put before each window, which is then one token longer and has all its text scored; -1 = none.
  int32_t bos = -1;
};

class EvalWindows {
 public:
  /// Encodes the text (or takes it from the cache). Refuses a text shorter than one window.
  static EvalWindows open(const std::string& path, const TokenizeOptions& tokenize,
                          const EvalOptions& options);
  EvalWindows(std::string path, std::shared_ptr<const TokenFile> tokens,
              const EvalOptions& options);

  int64_t windows() const { return windows_; }
  /// Tokens a row has: the window, and the bos if there is one.
  int64_t row_tokens() const { return options_.window + (options_.bos >= 0 ? 1 : 0); }
  /// Targets in all windows together.
  int64_t scored_tokens() const { return windows_ * (row_tokens() - 1); }
  /// Windows [begin, begin + rows), fewer at the end; `samples` are window numbers.
  Batch rows(int64_t begin, int64_t rows) const;

 private:
  std::shared_ptr<const TokenFile> tokens_;
  EvalOptions options_;
  int64_t windows_;
};

}  // namespace qat
