// The golden folders: tokenizers made by make_golden.py and what Hugging Face makes of texts.
#pragma once

#include <string>
#include <vector>

#include "engine/io/json.h"

namespace qat {

inline const std::string kGolden = "tests/tokenizer/golden/";

struct GoldenCase {
  std::string text, decoded, shown;
  std::vector<int32_t> ids;
  size_t added;
};

inline std::vector<GoldenCase> read_cases(const std::string& name) {
  const Json document = read_json_file(kGolden + name + "/expected.json");
  std::vector<GoldenCase> cases;
  for (const Json& item : document.at("cases"))
    cases.push_back({item.at("text"), item.at("decoded"), item.at("shown"),
                     item.at("ids").get<std::vector<int32_t>>(), item.at("added")});
  return cases;
}

inline Json read_golden_json(const std::string& name) {
  return read_json_file(kGolden + name + "/tokenizer.json");
}

}  // namespace qat
