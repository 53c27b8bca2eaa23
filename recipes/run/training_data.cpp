#include "recipes/run/training_data.h"

#include "engine/core/log.h"

namespace qat {
namespace {

/// The first document of a file, with what counts between [[ and ]].
std::string marked_document(const TokenFile& tokens, const Tokenizer& tokenizer) {
  const size_t length = size_t(tokens.document_ends().front());
  std::vector<int32_t> ids(length);
  std::vector<uint8_t> counted(length);
  tokens.read(0, ids);
  tokens.read_mask(0, counted);
  std::string text;
  for (size_t begin = 0, end = 0; begin < length; begin = end) {
    while (end < length && counted[end] == counted[begin]) ++end;
    const std::string part =
        tokenizer.decode({ids.begin() + ptrdiff_t(begin), ids.begin() + ptrdiff_t(end)}, false);
    text += counted[begin] ? "[[" + part + "]]" : part;
  }
  return text;
}

}  // namespace

void describe_data(const Dataset& data, const Tokenizer& tokenizer) {
  const DatasetSummary& summary = data.summary();
  log::info("data: {} documents, {} tokens, {} sequences of {} an epoch", summary.documents,
            summary.tokens, data.sequences(), data.options().sequence);
  if (summary.empty_documents > 0)
    log::warn("data: {} records hold nothing to train on and are left out",
              summary.empty_documents);
  if (summary.masked_documents == 0) return;
  log::info("data: the loss counts on the answers of {} documents only", summary.masked_documents);
  if (summary.truncated_documents > 0)
    log::warn(
        "data: {} of them are longer than data.sequence, {} tokens, and lose the end of their "
        "answer; {} of those are left out, since nothing of their answer fits",
        summary.truncated_documents, data.options().sequence, summary.unanswered_documents);
  for (const DataSource& source : data.sources()) {
    if (!source.tokens->info().has_mask) continue;
    log::debug("{}: the first document, what counts between [[ and ]]:\n{}", source.path,
               marked_document(*source.tokens, tokenizer));
    return;
  }
}

}  // namespace qat
