// JSON under small limits; a document that is read must be the same after it is written again.
#include "engine/io/json.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

bool qat::fuzz::fuzz_json(std::string_view input) {
  return read_or_refuse([&] {
    const Json json = parse_json(input, "f.json", {.bytes = 1 << 16, .depth = 24, .values = 5000});
    if (json != parse_json(json.dump(), "again.json", {.bytes = 1 << 20}))
      throw Broken("reads back otherwise: " + json.dump());
  });
}
