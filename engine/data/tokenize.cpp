// From a data file to its token file; see the header.
#include "engine/data/tokenize.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>

#include "engine/core/error.h"
#include "engine/core/log.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

/// From here on a text is encoded in parts if the encoder allows it.
constexpr size_t kPart = size_t{4} << 20;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Splitting::at_line_starts holds for a cut in front of text[at].
bool may_cut(std::string_view text, size_t at) {
  return is_letter(text[at]) && text[at - 1] == '\n' && text[at - 2] > ' ' && text[at - 2] < '\x7F';
}

std::vector<int32_t> encode_text(std::string_view text, const TextEncoder& encoder) {
  if (encoder.splitting == Splitting::whole || text.size() <= kPart) return encoder.encode(text);
  std::vector<int32_t> ids;
  while (!text.empty()) {
    size_t end = std::min(text.size(), kPart);
    while (end < text.size() && !may_cut(text, end)) ++end;
    const std::vector<int32_t> part = encoder.encode(text.substr(0, end));
    ids.insert(ids.end(), part.begin(), part.end());
    text.remove_prefix(end);
  }
  return ids;
}

size_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  const size_t most = std::min(a.size(), b.size());
  return size_t(std::mismatch(a.begin(), a.begin() + ptrdiff_t(most), b.begin()).first - a.begin());
}

/// "...and May?Natalia sold": legal, but perhaps not what was meant.
void warn_if_glued(const Document& document) {
  const std::string& prompt = document.pieces.front().text;
  const std::string& completion = document.pieces.back().text;
  const auto visible = [](char c) { return c > ' ' || c < 0; };
  if (prompt.empty() || completion.empty() || !visible(prompt.back()) ||
      !visible(completion.front()))
    return;
  log::warn(
      "{}: the prompt ends and the completion begins with a visible character and nothing stands "
      "between them; data.separator puts something there",
      document.where);
}

uint64_t rendering_of(const std::string& path, const TokenizeOptions& options, Records records) {
  const ReadOptions& read = options.read;
  const DataFormat format = format_of(path, read);
  std::string key =
      fmt::format("{} {} {} {} {} ", int(format), int(records),
                  int(container_of(path, read.format)), options.encoder.bos, options.encoder.eos);
  const RecordFields& fields = read.fields;
  for (const std::string* field :
       {&fields.text, &fields.prompt, &fields.completion, &fields.messages, &fields.separator}) {
    key += fmt::format("{}:{} ", field->size(), *field);
  }
  if (format == DataFormat::messages)
    key += fmt::format("{:016x}", renderer_of(read, path).fingerprint);
  return XXH3_64bits(key.data(), key.size());
}

TokenKey key_of(const std::string& path, const TokenizeOptions& options, Records records) {
  return {options.encoder.fingerprint, rendering_of(path, options, records), hash_file(path)};
}

std::string cache_path(const std::string& path, const TokenKey& key, const std::string& directory) {
  const uint64_t words[] = {key.tokenizer, key.rendering, key.source.hash, key.source.bytes};
  const std::string stem = fs::path(path).stem().string().substr(0, 100);
  return fmt::format("{}/{}-{:016x}.tokens", directory, stem, XXH3_64bits(words, sizeof words));
}

std::shared_ptr<const TokenFile> encode_file(const std::string& path,
                                             const TokenizeOptions& options, Records records,
                                             const TokenKey& key, const std::string& output) {
  const DataFormat format = format_of(path, options.read);
  const bool masked = records == Records::documents && has_loss_mask(format);
  TokenWriter writer(output, options.encoder.vocab_size,
                     masked ? LossMask::present : LossMask::absent);
  ContentHash content;
  uint64_t tokens = 0, seen = 0;
  if (records == Records::joined) {
    const std::string text = read_joined_text(path, options.read, content);
    const std::vector<int32_t> ids = encode_text(text, options.encoder);
    tokens = ids.size();
    writer.add(ids, {}, path);
  } else {
    content = read_documents(path, options.read, [&](Document&& document) {
      if (seen == 0 && format == DataFormat::prompt_completion) warn_if_glued(document);
      const EncodedDocument encoded = encode_document(document, format, options.encoder);
      ++seen;
      tokens += encoded.ids.size();
      writer.add(encoded.ids, encoded.counted, document.where);
    });
  }
  if (content != key.source) {
    refuse("{}: changed while it was being read; start again when it is complete", path);
  }
  if (tokens == 0) {
    refuse("{}: holds no text ({} bytes, {} empty documents)", path, content.bytes, seen);
  }
  return writer.commit(key);
}

void create_directory(const std::string& directory) {
  std::error_code failure;
  fs::create_directories(directory, failure);
  if (failure) {
    throw Error(Exit::cannot_write, fmt::format("{}: cannot create the token cache folder: {}",
                                                directory, failure.message()));
  }
}

}  // namespace

EncodedDocument encode_document(const Document& document, DataFormat format,
                                const TextEncoder& encoder) {
  std::string text;
  bool counts = false;
  for (const TextPiece& piece : document.pieces) {
    text += piece.text;
    counts |= piece.loss == Loss::counted && !piece.text.empty();
  }
  EncodedDocument encoded;
  const bool masked = has_loss_mask(format);
  if (text.empty() || (masked && !counts)) return encoded;
  const std::vector<int32_t> body = encode_text(text, encoder);
  const bool plain_ends = format != DataFormat::messages;
  if (plain_ends && encoder.bos >= 0) encoded.ids.push_back(encoder.bos);
  const size_t before = encoded.ids.size();
  encoded.ids.insert(encoded.ids.end(), body.begin(), body.end());
  if (plain_ends && encoder.eos >= 0 && (body.empty() || body.back() != encoder.eos)) {
    encoded.ids.push_back(encoder.eos);
  }
  if (!masked) return encoded;

  encoded.counted.assign(encoded.ids.size(), 0);
  size_t end_of_text = 0, begin = 0;
  for (size_t i = 0; i < document.pieces.size(); ++i) {
    const TextPiece& piece = document.pieces[i];
    end_of_text += piece.text.size();
    size_t end = body.size();
    if (end_of_text < text.size()) {
      // Neighbours that count alike need no border between them.
      if (i + 1 < document.pieces.size() && document.pieces[i + 1].loss == piece.loss) continue;
      end = common_prefix(body, encoder.encode(std::string_view(text).substr(0, end_of_text)));
      end = std::max(begin, end);
    }
    if (piece.loss == Loss::counted) {
      std::fill_n(encoded.counted.begin() + ptrdiff_t(before + begin), end - begin, uint8_t{1});
    }
    begin = end;
  }
  // The end of a document is learned with the piece it ends.
  if (document.pieces.back().loss == Loss::counted) {
    std::fill(encoded.counted.begin() + ptrdiff_t(before + body.size()), encoded.counted.end(),
              uint8_t{1});
  }
  return encoded;
}

std::shared_ptr<const TokenFile> open_tokens(const std::string& path,
                                             const TokenizeOptions& options, Records records) {
  if (container_of(path, DataFormat::text) == Container::tokens) {
    auto file = TokenFile::open(path, options.encoder.vocab_size);
    if (file->info().key.tokenizer != options.encoder.fingerprint) {
      refuse(
          "{}: made with another tokenizer (fingerprint {:016x}, the model's is {:016x}); tokenize "
          "the text again with the model's",
          path, file->info().key.tokenizer, options.encoder.fingerprint);
    }
    return file;
  }
  const TokenKey key = key_of(path, options, records);
  if (options.cache_directory.empty()) return encode_file(path, options, records, key, "");
  const std::string cached = cache_path(path, key, options.cache_directory);
  if (fs::exists(cached)) {
    try {
      auto file = TokenFile::open(cached, options.encoder.vocab_size);
      if (file->info().key == key) return file;
    } catch (const Error& error) {
      log::warn("token cache: {}; made again from {}", error.what(), path);
    }
  }
  create_directory(options.cache_directory);
  return encode_file(path, options, records, key, cached);
}

std::shared_ptr<const TokenFile> write_tokens(const std::string& path,
                                              const TokenizeOptions& options, Records records,
                                              const std::string& output) {
  return encode_file(path, options, records, key_of(path, options, records), output);
}

}  // namespace qat
