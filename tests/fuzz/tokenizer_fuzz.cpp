// tokenizer.json or tokenizer.model with the files beside it: what opens must encode any text,
// decode what it encoded, and write itself.
#include "models/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

bool qat::fuzz::fuzz_tokenizer(std::string_view input) {
  static const Folder folder;
  folder.clear();
  Bundle bundle = to_bundle(input, {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                                    "special_tokens_map.json", "generation_config.json",
                                    "chat_template.json", "chat_template.jinja"});
  if (bundle.empty()) bundle["tokenizer.json"] = input;
  for (const auto& [name, bytes] : bundle) folder.write(name, bytes);
  return read_or_refuse([&] {
    const auto tokenizer = Tokenizer::open(folder.path());
    for (const char* text :
         {"Hello, world! It's 12345\n\n  two", "caf\xc3\xa9 \xe4\xbd\xa0 \xff<s>", ""}) {
      const auto ids = tokenizer->encode_with_special(text);
      for (const int32_t id : ids)
        if (id < 0 || id >= tokenizer->vocab_size()) throw Broken("an id outside the vocabulary");
      tokenizer->decode(ids, true);
      tokenizer->decode(ids, false);
    }
    tokenizer->decode({-1, 0, INT32_MAX}, false);
    tokenizer->chat_template();
    tokenizer->config_json();
    tokenizer->to_json();
  });
}
