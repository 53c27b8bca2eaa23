// Documents out of the files people train on: plain text, JSON Lines with a text field,
// prompt/completion pairs and chat conversations.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/data/input_file.h"
#include "engine/data/text_encoder.h"

namespace qat {

/// What the records of a file are.
enum class DataFormat : uint8_t {
  automatic,          ///< by extension (.txt text, .jsonl records) and the first record's fields
  text,               ///< the same, and any other extension is one plain text
  prompt_completion,  ///< .jsonl; the loss counts on the completion only
  messages            ///< .jsonl; the loss counts where the chat renderer says so
};

/// Names of the fields in JSON Lines.
struct RecordFields {
  std::string text = "text";
  std::string prompt = "prompt";
  std::string completion = "completion";
  std::string messages = "messages";
  std::string separator;  ///< put between prompt and completion, not counted for the loss
};

/// One document: its text in pieces, and the place it came from.
struct Document {
  std::vector<TextPiece> pieces;
  std::string where;  ///< "file" or "file:line"
};

/// How to read a file. `renderer` is asked for only where a file holds messages, so that a template
/// that cannot be had or run matters to nobody else.
struct ReadOptions {
  DataFormat format = DataFormat::automatic;
  RecordFields fields;
  std::function<ChatRenderer()> renderer;
};

/// True if the documents of this format say which tokens count.
bool has_loss_mask(DataFormat format);

/// What a file is under `format`: text, or the JSON Lines formats. Refuses an unknown extension.
enum class Container : uint8_t { plain, json_lines, tokens };
Container container_of(const std::string& path, DataFormat format);

/// The format of a file under `options`, never automatic. For automatic JSON Lines the fields of
/// the first record decide: messages, prompt and completion, or text. Refuses a record that has
/// none of them, or several.
DataFormat format_of(const std::string& path, const ReadOptions& options);

/// The renderer of `options`; refuses, with `where` in front, if there is none.
ChatRenderer renderer_of(const ReadOptions& options, const std::string& where);

/// Calls `visit` for each document in order, empty ones included; returns the hash of what was
/// read. Refuses a bad line with file:line and cause.
ContentHash read_documents(const std::string& path, const ReadOptions& options,
                           const std::function<void(Document&&)>& visit);

/// Evaluation text as one string: a .txt as it is, the documents of a .jsonl joined by "\n\n".
std::string read_joined_text(const std::string& path, const ReadOptions& options,
                             ContentHash& content);

}  // namespace qat
