// qat-tokenize: text in, token ids out, one JSON array a line; or a token file for training.
#include <charconv>
#include <string>

#include "engine/data/input_file.h"
#include "engine/data/readers.h"
#include "engine/data/tokenize.h"
#include "models/tokenizer/tokenizer.h"
#include "recipes/run/command.h"

namespace qat {
namespace {

struct Arguments {
  std::string model, file, output;
  bool special = false;
};

void describe(CLI::App& app, Arguments& arguments) {
  app.add_option("MODEL", arguments.model,
                 "a folder with tokenizer.json or tokenizer.model, or a .gguf file")
      ->required();
  app.add_option("FILE", arguments.file,
                 "the text: every line of a plain file, the field \"text\" of every record of a "
                 ".jsonl file")
      ->required();
  app.add_flag("--special", arguments.special,
               "add the special tokens that the tokenizer puts around a text, such as <s>");
  app.add_option("-o,--output", arguments.output,
                 "write a token file (.bin) for training instead of printing; every file or record "
                 "is a document, and --special puts the tokenizer's beginning and end tokens "
                 "around each");
  app.footer(
      "Special tokens written in the text are recognised as such. Invalid UTF-8 becomes U+FFFD.\n"
      "Examples:\n"
      "  qat-tokenize models/smollm2 notes.txt\n"
      "  qat-tokenize SmolLM2-135M.gguf stories.jsonl -o stories.bin");
}

class Printer {
 public:
  void print(const std::vector<int32_t>& ids) {
    buffer_ += '[';
    char digits[16];
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) buffer_ += ", ";
      buffer_.append(digits, std::to_chars(digits, digits + sizeof(digits), ids[i]).ptr);
    }
    buffer_ += "]\n";
    if (buffer_.size() > kFlush) flush();
  }
  void flush() {
    write_output(buffer_);
    buffer_.clear();
  }

 private:
  static constexpr size_t kFlush = size_t(1) << 16;
  std::string buffer_;
};

void print_ids(const Tokenizer& tokenizer, const Arguments& arguments) {
  Printer printer;
  const auto print = [&](std::string_view text) {
    printer.print(arguments.special ? tokenizer.encode_with_special(text) : tokenizer.encode(text));
  };
  const bool records = arguments.file.ends_with(".jsonl") || arguments.file.ends_with(".ndjson");
  if (records) {
    ReadOptions text;
    text.format = DataFormat::text;
    read_documents(arguments.file, text,
                   [&](Document&& document) { print(document.pieces.front().text); });
  } else {
    InputFile file(arguments.file);
    for_each_line(file, [&](std::string_view line, uint64_t) { print(line); });
  }
  printer.flush();
}

void write_file(const Tokenizer& tokenizer, const Arguments& arguments) {
  TokenizeOptions options;
  options.read.format = DataFormat::text;
  options.encoder.encode = [&](std::string_view text) { return tokenizer.encode(text); };
  options.encoder.fingerprint = tokenizer.fingerprint();
  options.encoder.vocab_size = tokenizer.vocab_size();
  if (arguments.special) {
    const std::vector<int32_t> around = tokenizer.encode_with_special("");
    if (!around.empty() && around.front() == tokenizer.bos_id())
      options.encoder.bos = tokenizer.bos_id();
    options.encoder.eos = tokenizer.eos_id();
  }
  const auto tokens = write_tokens(arguments.file, options, Records::documents, arguments.output);
  write_output(fmt::format("{}: {} tokens in {} documents\n", arguments.output,
                           tokens->info().tokens, tokens->info().documents));
}

}  // namespace
}  // namespace qat

int main(int argc, char** argv) {
  CLI::App app("Prints the token ids of a text, identical to those of Hugging Face tokenizers.",
               "qat-tokenize");
  qat::Arguments arguments;
  qat::describe(app, arguments);
  return qat::run_command(app, argc, argv, [&] {
    const auto tokenizer = qat::Tokenizer::open(arguments.model);
    if (arguments.output.empty())
      qat::print_ids(*tokenizer, arguments);
    else
      qat::write_file(*tokenizer, arguments);
    return qat::Exit::ok;
  });
}
