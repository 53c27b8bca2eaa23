// Training sequences out of token files; see the header.
#include "engine/data/dataset.h"

#include <xxhash.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "engine/core/error.h"
#include "engine/data/shuffle.h"

namespace qat {
/// Where a row of a batch is written.
struct Dataset::Row {
  int32_t* ids;
  int32_t* targets;
  int32_t* positions;
  int32_t* first;
};

Dataset Dataset::open(const std::vector<std::string>& patterns, const TokenizeOptions& tokenize,
                      const DatasetOptions& options) {
  std::vector<DataSource> sources;
  for (std::string& path : expand_globs(patterns)) {
    auto tokens = open_tokens(path, tokenize);
    sources.push_back({std::move(path), std::move(tokens)});
  }
  return Dataset(std::move(sources), options);
}

Dataset::Dataset(std::vector<DataSource> sources, const DatasetOptions& options)
    : sources_(std::move(sources)), options_(options) {
  if (options_.sequence < 1)
    refuse("sequence of {} tokens; at least 1 is needed", options_.sequence);
  bool masked = false;
  file_begins_.push_back(0);
  for (const DataSource& source : sources_) {
    const TokenInfo& info = source.tokens->info();
    masked |= info.has_mask;
    if (info.has_mask) summary_.masked_documents += info.documents;
    summary_.documents += info.documents;
    summary_.empty_documents += info.empty_documents;
    summary_.tokens += info.tokens;
    file_begins_.push_back(summary_.tokens);
  }
  if (summary_.tokens == 0) refuse("the training data holds no tokens");
  const uint64_t length = uint64_t(options_.sequence);
  streamed_ = options_.packing == Packing::on && !masked;
  if (streamed_) {
    summary_.sequences = (summary_.tokens + length - 1) / length;
    summary_.padding = summary_.sequences * length - summary_.tokens;
    return;
  }
  plan_pieces();
  summary_.sequences = starts_.size() - 1;
  if (summary_.sequences == 0) {
    refuse(
        "the prompts of all {} documents of the training data are longer than data.sequence, {} "
        "tokens, so that no answer fits; make data.sequence longer",
        summary_.documents, options_.sequence);
  }
  summary_.padding = summary_.sequences * length - (summary_.tokens - summary_.truncated_tokens);
}

void Dataset::plan_pieces() {
  const uint64_t most = uint64_t(options_.sequence);
  std::vector<Piece> pieces;
  for (size_t file = 0; file < sources_.size(); ++file) {
    const TokenFile& tokens = *sources_[file].tokens;
    uint64_t begin = file_begins_[file];
    for (const uint64_t local_end : tokens.document_ends()) {
      const uint64_t end = file_begins_[file] + local_end;
      const uint64_t length = end - begin;
      if (length > most && tokens.info().has_mask) {
        ++summary_.truncated_documents;
        const bool answered = counts(tokens, begin - file_begins_[file]);
        if (answered)
          pieces.push_back({begin, most});
        else
          ++summary_.unanswered_documents;
        summary_.truncated_tokens += length - (answered ? most : 0);
      } else {
        for (uint64_t at = begin; at < end; at += most) {
          pieces.push_back({at, std::min(most, end - at)});
        }
      }
      begin = end;
    }
  }
  if (options_.packing == Packing::on) {
    pack_best_fit(pieces);
    return;
  }
  pieces_ = std::move(pieces);
  starts_.resize(pieces_.size() + 1);
  for (size_t i = 0; i < starts_.size(); ++i) starts_[i] = i;
}

/// Whether the first sequence of the document that begins there predicts anything.
bool Dataset::counts(const TokenFile& tokens, uint64_t begin) const {
  std::vector<uint8_t> targets(size_t(options_.sequence));
  tokens.read_mask(begin + 1, targets);
  return std::find(targets.begin(), targets.end(), uint8_t{1}) != targets.end();
}

void Dataset::pack_best_fit(const std::vector<Piece>& whole) {
  // The longest first, each to the sequence it leaves the least room in.
  std::vector<uint32_t> longest_first(whole.size());
  std::iota(longest_first.begin(), longest_first.end(), 0u);
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](uint32_t a, uint32_t b) { return whole[a].length > whole[b].length; });
  std::vector<uint32_t> bin_of(whole.size());
  std::multimap<uint64_t, uint32_t> open;  // room left -> bin
  uint32_t bins = 0;
  for (const uint32_t i : longest_first) {
    const auto fit = open.lower_bound(whole[i].length);
    uint64_t room = uint64_t(options_.sequence);
    uint32_t bin = bins;
    if (fit == open.end()) {
      ++bins;
    } else {
      std::tie(room, bin) = *fit;
      open.erase(fit);
    }
    bin_of[i] = bin;
    if (room > whole[i].length) open.emplace(room - whole[i].length, bin);
  }
  // Sequences are numbered by their first document, so that Order::as_stored is not by length.
  constexpr uint32_t kUnnumbered = ~uint32_t{0};
  std::vector<uint32_t> number(bins, kUnnumbered);
  uint32_t numbered = 0;
  starts_.assign(bins + 1, 0);
  for (uint32_t& bin : bin_of) {
    if (number[bin] == kUnnumbered) number[bin] = numbered++;
    bin = number[bin];
    ++starts_[bin + 1];
  }
  std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
  pieces_.resize(whole.size());
  std::vector<uint64_t> next(starts_.begin(), starts_.end() - 1);
  for (size_t i = 0; i < whole.size(); ++i) pieces_[next[bin_of[i]]++] = whole[i];
}

int64_t Dataset::place(Piece piece, int64_t at, const Row& row) const {
  while (piece.length > 0) {
    const size_t file =
        size_t(std::upper_bound(file_begins_.begin(), file_begins_.end(), piece.begin) -
               file_begins_.begin()) -
        1;
    const TokenFile& tokens = *sources_[file].tokens;
    const uint64_t begin = piece.begin - file_begins_[file];
    const auto ends = tokens.document_ends();
    const uint64_t end = *std::upper_bound(ends.begin(), ends.end(), begin);
    const uint64_t length = std::min(piece.length, end - begin);
    // One more token, if the document has it, is the target of the last.
    const size_t with_next = size_t(length + (begin + length < end ? 1 : 0));
    std::vector<int32_t> ids(with_next);
    std::vector<uint8_t> counted(with_next);
    tokens.read(begin, ids);
    tokens.read_mask(begin, counted);
    for (size_t i = 0; i < size_t(length); ++i) {
      const size_t to = size_t(at) + i;
      row.ids[to] = ids[i];
      row.targets[to] = i + 1 < with_next && counted[i + 1] != 0 ? ids[i + 1] : -1;
      row.positions[to] = int32_t(i);
      row.first[to] = int32_t(at);
    }
    at += int64_t(length);
    piece.begin += length;
    piece.length -= length;
  }
  return at;
}

void Dataset::fill(uint64_t sequence, const Row& row) const {
  int64_t at = 0;
  if (streamed_) {
    const uint64_t begin = sequence * uint64_t(options_.sequence);
    const uint64_t left = summary_.tokens - begin;
    at = place({begin, std::min(uint64_t(options_.sequence), left)}, 0, row);
  } else {
    for (uint64_t i = starts_[sequence]; i < starts_[sequence + 1]; ++i) {
      at = place(pieces_[i], at, row);
    }
  }
  for (; at < options_.sequence; ++at) {
    row.ids[at] = options_.pad_id;
    row.targets[at] = -1;
    row.positions[at] = 0;
    row.first[at] = int32_t(at);
  }
}

Batch Dataset::next(int64_t rows, RankShare share) {
  if (share.world < 1 || share.rank < 0 || share.rank >= share.world) {
    internal_error("rank {} of {}", share.rank, share.world);
  }
  if (rows < 1 || rows % share.world != 0) {
    refuse("a batch of {} sequences does not divide over {} ranks; use a multiple of {}", rows,
           share.world, share.world);
  }
  const size_t length = size_t(options_.sequence);
  Batch batch;
  batch.rows = rows / share.world;
  batch.sequence = options_.sequence;
  const size_t total = size_t(batch.rows) * length;
  batch.ids.resize(total);
  batch.targets.resize(total);
  batch.positions.resize(total);
  batch.first.resize(total);
  // Rows of other ranks are made too, since their targets count for the loss of all.
  std::vector<int32_t> spare(4 * length);
  const int64_t mine = share.rank * batch.rows;
  uint64_t skipped_in_a_row = 0;
  while (int64_t(batch.samples.size()) < rows) {
    const uint64_t sequence =
        options_.order == Order::shuffled
            ? shuffled(position_.index, summary_.sequences, options_.seed, position_.epoch)
            : position_.index;
    const int64_t local = int64_t(batch.samples.size()) - mine;
    Row row{&spare[0], &spare[length], &spare[2 * length], &spare[3 * length]};
    if (local >= 0 && local < batch.rows) {
      const size_t offset = size_t(local) * length;
      row = {&batch.ids[offset], &batch.targets[offset], &batch.positions[offset],
             &batch.first[offset]};
    }
    fill(sequence, row);
    if (++position_.index == summary_.sequences) position_ = {position_.epoch + 1, 0};
    const int64_t valid =
        int64_t(length) - int64_t(std::count(row.targets, row.targets + length, -1));
    if (valid == 0) {
      ++skipped_;
      // Two rounds because one may start in the middle of an epoch.
      if (++skipped_in_a_row > 2 * summary_.sequences) {
        refuse("no token of the training data counts for the loss ({} sequences looked at)",
               summary_.sequences);
      }
      continue;
    }
    skipped_in_a_row = 0;
    batch.valid_targets += valid;
    batch.samples.push_back(sequence);
  }
  return batch;
}

void Dataset::seek(DataPosition position) {
  if (position.index >= summary_.sequences) {
    refuse(
        "data position {} lies outside the {} sequences of the training data: the data differs "
        "from what the checkpoint was trained on",
        position.index, summary_.sequences);
  }
  position_ = position;
}

uint64_t Dataset::identity() const {
  std::vector<uint64_t> words = {uint64_t(options_.sequence), uint64_t(options_.packing),
                                 uint64_t(options_.order), options_.seed,
                                 uint64_t(options_.pad_id)};
  for (const DataSource& source : sources_) {
    const TokenInfo& info = source.tokens->info();
    words.insert(words.end(),
                 {info.key.tokenizer, info.tokens, info.documents, info.data_checksum});
  }
  return XXH3_64bits(words.data(), words.size() * sizeof(uint64_t));
}

}  // namespace qat
