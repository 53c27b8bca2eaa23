// Documents out of data files; see the header.
#include "engine/data/readers.h"

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/io/printable.h"

namespace qat {
namespace {

constexpr JsonLimits kRecordLimits = {.bytes = kLongestLine};

std::string extension_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  const size_t dot = path.find_last_of('.');
  if (dot == path.npos || (slash != path.npos && dot < slash)) return "";
  std::string extension = path.substr(dot);
  for (char& c : extension) {
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  }
  return extension;
}

std::string names_of(const Json& record) {
  std::string names;
  for (const auto& [name, value] : record.items()) {
    if (names.size() > 200) return names + ", ...";
    names += (names.empty() ? "" : ", ") + printable(name, 40);
  }
  return names.empty() ? "none" : names;
}

std::string take_string(Json& record, const std::string& field, const std::string& where) {
  const auto found = record.find(field);
  if (found == record.end()) {
    refuse("{}: no field \"{}\" (the record has: {}); set the data format or the field names",
           where, field, names_of(record));
  }
  if (!found->is_string()) {
    refuse("{}: field \"{}\" should be a string, got {}", where, field, found->type_name());
  }
  return std::move(found->get_ref<std::string&>());
}

std::vector<ChatMessage> take_messages(Json& record, const std::string& field,
                                       const std::string& where) {
  const auto found = record.find(field);
  if (found == record.end()) {
    refuse("{}: no field \"{}\" (the record has: {})", where, field, names_of(record));
  }
  if (!found->is_array()) {
    refuse("{}: field \"{}\" should be a list of messages, got {}", where, field,
           found->type_name());
  }
  std::vector<ChatMessage> messages;
  for (Json& message : *found) {
    const std::string place = fmt::format("{}: {}[{}]", where, field, messages.size());
    if (!message.is_object()) {
      refuse("{}: expected an object with role and content, got {}", place, message.type_name());
    }
    // The renderer sees role and content only; a call left out would silently change the text.
    for (const char* key : {"tool_calls", "function_call"}) {
      const auto call = message.find(key);
      if (call != message.end() && !call->is_null() && !call->empty()) {
        refuse("{}: \"{}\" is not supported; render the conversation to text first", place, key);
      }
    }
    ChatMessage& added = messages.emplace_back();
    added.role = take_string(message, "role", place);
    added.content = take_string(message, "content", place);
  }
  return messages;
}

std::vector<TextPiece> pieces_of(Json& record, DataFormat format, const RecordFields& fields,
                                 const ChatRenderer& renderer, const std::string& where) {
  std::vector<TextPiece> pieces;
  switch (format) {
    case DataFormat::automatic:
    case DataFormat::text:
      pieces.push_back({take_string(record, fields.text, where), Loss::counted});
      break;
    case DataFormat::prompt_completion: {
      std::string prompt = take_string(record, fields.prompt, where) + fields.separator;
      pieces.push_back({std::move(prompt), Loss::ignored});
      pieces.push_back({take_string(record, fields.completion, where), Loss::counted});
      break;
    }
    case DataFormat::messages: {
      const std::vector<ChatMessage> messages = take_messages(record, fields.messages, where);
      if (messages.empty()) break;
      try {
        pieces = renderer.render(messages);
      } catch (const Error& error) {
        throw Error(error.code(), fmt::format("{}: {}", where, error.what()));
      }
      break;
    }
  }
  return pieces;
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t") == line.npos;
}

DataFormat format_of_record(const Json& record, const RecordFields& fields,
                            const std::string& where) {
  struct Candidate {
    DataFormat format;
    const char* name;
    bool present;
  };
  const Candidate candidates[] = {
      {DataFormat::messages, "messages", record.contains(fields.messages)},
      {DataFormat::prompt_completion, "prompt_completion",
       record.contains(fields.prompt) && record.contains(fields.completion)},
      {DataFormat::text, "text", record.contains(fields.text)}};
  const Candidate* found = nullptr;
  for (const Candidate& candidate : candidates) {
    if (!candidate.present) continue;
    if (found) {
      refuse("{}: the record is {} as well as {} (it has: {}); set data.format to the one to use",
             where, found->name, candidate.name, names_of(record));
    }
    found = &candidate;
  }
  if (!found) {
    refuse(
        "{}: expected a field \"{}\", or \"{}\" and \"{}\", or \"{}\" (the record has: {}); name "
        "its fields with data.text_field, data.prompt_field and data.completion_field, or "
        "data.messages_field",
        where, fields.text, fields.prompt, fields.completion, fields.messages, names_of(record));
  }
  return found->format;
}

}  // namespace

bool has_loss_mask(DataFormat format) {
  return format == DataFormat::prompt_completion || format == DataFormat::messages;
}

Container container_of(const std::string& path, DataFormat format) {
  const std::string extension = extension_of(path);
  if (extension == ".bin" || extension == ".tokens") return Container::tokens;
  if (extension == ".jsonl" || extension == ".ndjson") return Container::json_lines;
  if (has_loss_mask(format)) {
    refuse("{}: this data format is read from .jsonl files (one JSON object a line)", path);
  }
  if (extension == ".txt" || format == DataFormat::text) return Container::plain;
  refuse(
      "{}: cannot tell the format from the extension \"{}\"; known: .txt, .jsonl, .bin (tokens); "
      "for plain text under another name set the format to text",
      path, extension);
}

DataFormat format_of(const std::string& path, const ReadOptions& options) {
  if (options.format != DataFormat::automatic) return options.format;
  if (container_of(path, options.format) != Container::json_lines) return DataFormat::text;
  DataFormat format = DataFormat::text;  // without a record
  InputFile file(path);
  find_line(file, [&](std::string_view line, uint64_t number) {
    if (is_blank(line)) return false;
    const std::string where = fmt::format("{}:{}", path, number);
    format = format_of_record(parse_json_object(line, where, kRecordLimits), options.fields, where);
    return true;
  });
  return format;
}

ChatRenderer renderer_of(const ReadOptions& options, const std::string& where) {
  if (!options.renderer)
    refuse("{}: chat messages need a chat template; there is none here", where);
  try {
    return options.renderer();
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", where, error.what()));
  }
}

ContentHash read_documents(const std::string& path, const ReadOptions& options,
                           const std::function<void(Document&&)>& visit) {
  const Container container = container_of(path, options.format);
  InputFile file(path);
  if (container == Container::plain) {
    Document document{{}, path};
    document.pieces.push_back({read_all(file), Loss::counted});
    visit(std::move(document));
    return file.content();
  }
  const DataFormat format = format_of(path, options);
  const ChatRenderer renderer =
      format == DataFormat::messages ? renderer_of(options, path) : ChatRenderer();
  for_each_line(file, [&](std::string_view line, uint64_t number) {
    if (is_blank(line)) return;
    Document document{{}, fmt::format("{}:{}", path, number)};
    Json record = parse_json_object(line, document.where, kRecordLimits);
    document.pieces = pieces_of(record, format, options.fields, renderer, document.where);
    visit(std::move(document));
  });
  return file.content();
}

std::string read_joined_text(const std::string& path, const ReadOptions& options,
                             ContentHash& content) {
  std::string text;
  bool first = true;
  content = read_documents(path, options, [&](Document&& document) {
    if (!first) text += "\n\n";
    first = false;
    for (const TextPiece& piece : document.pieces) text += piece.text;
  });
  return text;
}

}  // namespace qat
