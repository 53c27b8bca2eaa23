#include "models/export/verify.h"

#include <cstring>
#include <filesystem>
#include <vector>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "models/source.h"
#include "models/stored_codes.h"

namespace qat {
namespace {

// What put_floats stores of `values`, as bytes.
std::string stored_bytes(StoredType type, const std::vector<float>& values) {
  std::string bytes;
  put_floats([&](const void* data, size_t n) { bytes.append(static_cast<const char*>(data), n); },
             type, values.data(), int64_t(values.size()));
  return bytes;
}

bool has_codes(const std::string& directory) {
  return read_json_file(directory + "/config.json").contains("quantization_config");
}

}  // namespace

std::string find_difference(const std::string& directory, const ExportModel& model) {
  ModelSource::open(directory);  // every tensor there, with its shape, and none too many
  const auto stored = Safetensors::open_directory(directory);
  std::unique_ptr<StoredCodes> codes;
  if (has_codes(directory)) codes = open_stored_codes(directory);
  std::vector<float> values;
  for (const ExportTensor& tensor : model.tensors) {
    if (codes && codes->is_quantized(tensor.name)) {
      const std::string what = difference(model.codes(tensor), codes->read(tensor.name));
      if (!what.empty()) return tensor.name + ": " + what;
      continue;
    }
    const SafetensorsTensor* found = stored->find(tensor.name);
    if (!found) return tensor.name + ": missing";
    values.resize(size_t(tensor.shape.count()));
    model.floats(tensor, values.data());
    const std::string expected = stored_bytes(found->type, values);
    if (expected.size() != found->bytes ||
        std::memcmp(expected.data(), stored->data(*found), expected.size()) != 0)
      return tensor.name + ": stored values differ";
    stored->release(*found);
  }
  return "";
}

std::string find_fault(const std::string& directory, const ExportModel& model) {
  const std::string difference = find_difference(directory, model);
  if (!difference.empty() || !model.check) return difference;
  return model.check(directory);
}

void verify_or_keep(StagedDirectory& staged, const std::function<std::string()>& check) {
  std::string what;
  try {
    what = check();
  } catch (const Error& error) {
    what = error.what();
  }
  if (what.empty()) return;
  const std::string kept = staged.keep_as_not_verified();
  throw Error(
      Exit::not_verified,
      fmt::format("the export does not read back as it was trained: {}; kept as {}", what, kept));
}

}  // namespace qat
