// A recipe: what is read must read back as itself once its defaults are filled in.
#include <cstdlib>

#include "recipes/run/recipe/recipe.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

bool qat::fuzz::fuzz_recipe(std::string_view input) {
  setenv("QAT_TEST_DATA", "data", 0);  // some recipes of ours, which are its seeds, name it
  std::string yaml;
  const bool good = read_or_refuse([&] {
    const auto recipe = qat::recipe::parse_recipe(std::string(input), "fuzz.yaml");
    yaml = qat::recipe::to_yaml(recipe);
    qat::recipe::scheme_text(recipe.quantize);
    qat::recipe::recipe_hash(recipe);
  });
  if (!good) return false;
  std::string again;
  const bool reads =
      read_or_refuse([&] { again = to_yaml(qat::recipe::parse_recipe(yaml, "again.yaml")); });
  if (!reads || again != yaml) throw Broken("reads back otherwise:\n" + yaml + "---\n" + again);
  return true;
}
