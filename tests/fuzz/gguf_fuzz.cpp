// A GGUF file: its metadata, its tensors, and the model and the tokenizer it may be.
#include <vector>

#include "engine/io/gguf.h"
#include "engine/io/gguf_blocks.h"
#include "models/source.h"
#include "models/tokenizer/tokenizer.h"
#include "recipes/run/inspect.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

void read_model(const std::string& path) {
  const auto source = ModelSource::open(path);
  std::vector<float> values;
  source->config_json();
  const QuantPlan plan = source->quantization();
  for (const SourceTensor& tensor : source->tensors()) {
    values.resize(size_t(tensor.shape.count()));
    read_or_refuse([&] { source->read(tensor.name, values.data()); });
    const auto linear = plan.linears.find(tensor.name.substr(0, tensor.name.rfind('.')));
    if (linear != plan.linears.end() && linear->second.weight)
      read_or_refuse([&] { source->read_codes(tensor.name); });
  }
}

}  // namespace

bool fuzz_gguf(std::string_view input) {
  static const Folder folder;
  const std::string path = folder.write("model.gguf", input);
  if (!read_or_refuse([&] { GgufFile::open(path); })) return false;
  const bool whole = read_or_refuse([&] { to_json(inspect(path), path); });
  read_or_refuse([&] { read_model(path); });
  read_or_refuse([&] {
    const auto tokenizer = Tokenizer::open(path);
    tokenizer->decode(tokenizer->encode_with_special("Hello, w\xc3\xb6rld 12\n  \xff"), false);
    tokenizer->to_json();
    tokenizer->config_json();
  });
  return whole;
}

}  // namespace qat::fuzz
