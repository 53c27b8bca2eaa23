// Training sequences out of token files: packed, shuffled, and resumable from two numbers.
//
//   auto data = Dataset::open({"train/*.jsonl"}, tokenize_options, {.sequence = 512, .seed = 1});
//   Batch batch = data.next(8, {rank, world});       // this rank's rows of a global batch of 8
//   DataPosition at = data.position();               // into the checkpoint
//   data.seek(at);                                   // after resume; the next batch is the same
//
// Conventions: every token of a document but its first is predicted exactly once an epoch; where a
// sequence ends inside a document, its last target is the document's next token. Attention and
// positions never reach over a document's border, nor back over the cut between sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/data/batch.h"
#include "engine/data/tokenize.h"

namespace qat {

/// Packing::on: text fills every sequence, documents are cut where it ends. Documents with a loss
/// mask stay whole and share a sequence where they fit (best fit), the rest is padding.
/// Packing::off: one document a sequence, padded.
/// Either way text longer than a sequence goes on in another one; a masked document that is longer
/// keeps its first `sequence` tokens, since its rest would have lost its prompt.
enum class Packing : uint8_t { on, off };
enum class Order : uint8_t { shuffled, as_stored };

struct DatasetOptions {
  int64_t sequence = 512;  ///< tokens in a row
  Packing packing = Packing::on;
  Order order = Order::shuffled;
  uint64_t seed = 0;
  int32_t pad_id = 0;  ///< any id of the vocabulary; padding is never attended to nor counted
};

/// Which part of a global batch is wanted: rows [rank, rank + 1) * rows / world.
struct RankShare {
  int rank = 0;
  int world = 1;
};

/// All there is to restore: the next sequence is number `index` of the order of `epoch`.
struct DataPosition {
  uint64_t epoch = 0;
  uint64_t index = 0;
  friend bool operator==(const DataPosition&, const DataPosition&) = default;
};

/// A data file and its tokens.
struct DataSource {
  std::string path;
  std::shared_ptr<const TokenFile> tokens;
};

struct DatasetSummary {
  uint64_t documents = 0;
  uint64_t empty_documents = 0;  ///< skipped
  uint64_t tokens = 0;
  uint64_t sequences = 0;  ///< in an epoch
  uint64_t padding = 0;    ///< tokens of padding in an epoch
  uint64_t masked_documents = 0;
  uint64_t truncated_documents = 0;   ///< masked and longer than a sequence: the end of it is lost
  uint64_t unanswered_documents = 0;  ///< of them, left out: nothing that counts fits
  uint64_t truncated_tokens = 0;
};

class Dataset {
 public:
  /// Expands the patterns, tokenizes what is not cached, and plans the sequences. Refuses bad
  /// files.
  static Dataset open(const std::vector<std::string>& patterns, const TokenizeOptions& tokenize,
                      const DatasetOptions& options);
  Dataset(std::vector<DataSource> sources, const DatasetOptions& options);

  /// This rank's rows of the next global batch of `rows` sequences; moves the position by what the
  /// global batch took, the same on every rank. A batch may run over the end of an epoch into the
  /// next. A sequence without any valid target is passed over and counted. Refuses `rows` that do
  /// not divide by the world size, and data in which nothing counts.
  Batch next(int64_t rows, RankShare share = {});

  DataPosition position() const { return position_; }
  /// Refuses a position outside this data set.
  void seek(DataPosition position);

  const DatasetOptions& options() const { return options_; }
  const DatasetSummary& summary() const { return summary_; }
  const std::vector<DataSource>& sources() const { return sources_; }
  uint64_t sequences() const { return summary_.sequences; }
  /// Sequences passed over since this object was made because nothing in them counts.
  uint64_t skipped_samples() const { return skipped_; }
  /// A hash of all that decides which tokens come when; equal on all ranks and across a resume.
  uint64_t identity() const;

 private:
  /// A run of tokens of one document, or with packed text of several.
  struct Piece {
    uint64_t begin;
    uint64_t length;
  };
  struct Row;
  void plan_pieces();
  bool counts(const TokenFile& tokens, uint64_t begin) const;
  void pack_best_fit(const std::vector<Piece>& whole);
  void fill(uint64_t sequence, const Row& row) const;
  int64_t place(Piece piece, int64_t at, const Row& row) const;

  std::vector<DataSource> sources_;
  DatasetOptions options_;
  DatasetSummary summary_;
  std::vector<uint64_t> file_begins_;  ///< token index of each file's first token, then the total
  /// Text packed end to end needs no plan; else sequence i has pieces [starts_[i], starts_[i + 1]).
  bool streamed_ = false;
  std::vector<Piece> pieces_;
  std::vector<uint64_t> starts_;
  DataPosition position_;
  uint64_t skipped_ = 0;
};

}  // namespace qat
