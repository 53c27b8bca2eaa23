// Which files of a model directory hold its tensors, told by the index alone; every name in it is
// checked before it is opened.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace qat {

struct SafetensorsLayout {
  std::vector<std::string> files;                 ///< names inside the directory
  std::string index;                              ///< path of the index, empty for a single file
  std::map<std::string, std::string> weight_map;  ///< tensor -> file, when there is an index
  std::optional<uint64_t> total_size;
};

/// Throws Error(refused) naming the index and the entry.
SafetensorsLayout find_safetensors(const std::string& directory);

}  // namespace qat
