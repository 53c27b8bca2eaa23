// A safetensors file whose every tensor is read. The input is "index" and the text of an index of
// two shards, "file" and the bytes of a file, or else a header and the beginning of its data.
#include <algorithm>
#include <vector>

#include "engine/io/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

void read_all(const Safetensors& file) {
  std::vector<float> values;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    if (file.find(tensor.name) != &tensor) throw Broken("find() does not find " + tensor.name);
    touch(file.data(tensor), tensor.bytes);
    if (tensor.type != StoredType::f32 && tensor.type != StoredType::f16 &&
        tensor.type != StoredType::bf16)
      continue;
    values.resize(size_t(tensor.shape.count()));
    file.read_floats(tensor, 0, tensor.shape.count(), values.data());
    file.release(tensor);
  }
}

// The folder of two shards with the tensors a, b and c; the index is the input's.
const Folder& shards() {
  static const Folder folder;
  static const bool written = [] {
    const auto zeros = [](const SafetensorsEntry& entry, const ByteSink& sink) {
      const std::vector<char> bytes(size_t(entry.shape.count()) * size_of(entry.type));
      sink(bytes.data(), bytes.size());
    };
    write_safetensors(folder.path() + "/model-00001-of-00002.safetensors",
                      {{"a", StoredType::f32, {2, 2}}, {"b.weight", StoredType::bf16, {3}}}, zeros);
    write_safetensors(folder.path() + "/model-00002-of-00002.safetensors",
                      {{"c", StoredType::i8, {5}}}, zeros);
    return true;
  }();
  (void)written;
  return folder;
}

}  // namespace

bool fuzz_safetensors(std::string_view input) {
  static const Folder single;
  if (input.starts_with("index")) {
    shards().write("model.safetensors.index.json", input.substr(5));
    return read_or_refuse([&] { read_all(*Safetensors::open_directory(shards().path())); });
  }
  const bool whole = input.starts_with("file");
  const std::string path = single.write(
      "model.safetensors", whole ? std::string(input.substr(4)) : safetensors_file(input));
  return read_or_refuse([&] { read_all(*Safetensors::open_file(path)); });
}

}  // namespace qat::fuzz
