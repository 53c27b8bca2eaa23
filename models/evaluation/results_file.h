// What an evaluation has computed so far, one JSON object a line, so that one that was killed goes
// on where it was. Records carry a key of everything that decides their numbers.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/runtime/store.h"

namespace qat {

/// 16 hex digits over the parameters, scales and codes in the Store and over `settings`, which says
/// how they are run (plan, types).
std::string model_identity(const Store& store, std::string_view settings);

class ResultsFile {
 public:
  /// Reads what is there; a torn last line is cut. Refuses a file that holds anything else. An
  /// empty path keeps nothing.
  explicit ResultsFile(std::string path);

  /// The records under a key, in the order they came.
  std::vector<nlohmann::json> records(const std::string& key) const;
  /// The same, one by one. Refuses the file where `take` misses something in a record (a JSON
  /// exception), or says that it is none of its own (false).
  void take_records(const std::string& key,
                    const std::function<bool(const nlohmann::json&)>& take) const;
  /// Appends {"key": key, ...record}. Throws Error(cannot_write).
  void add(const std::string& key, const nlohmann::json& record);

 private:
  std::string path_;
  std::vector<nlohmann::json> records_;
};

}  // namespace qat
