// The generated files of recipes/ are what the field table says now. QAT_UPDATE_REFERENCE=1 in the
// environment writes them instead.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {
namespace {

void expect_file(const std::string& path, const std::string& text) {
  if (std::getenv("QAT_UPDATE_REFERENCE") != nullptr) {
    std::ofstream(path, std::ios::binary) << text;
    return;
  }
  std::ostringstream written;
  written << std::ifstream(path, std::ios::binary).rdbuf();
  EXPECT_EQ(written.str() == text, true)
      << path << " is not what the field table gives; run QAT_UPDATE_REFERENCE=1 test_recipe";
}

TEST(Reference, ReadmeIsUpToDate) {
  expect_file("recipes/README.md", recipe_reference());
}
TEST(Reference, SchemaIsUpToDate) {
  expect_file("recipes/recipe.schema.json", recipe_schema());
}

TEST(Reference, EveryKeyIsInHelpReadmeAndSection) {
  const std::string help = recipe_help(), readme = recipe_reference();
  std::set<std::string> keys;
  for (const auto& field : recipe_fields()) {
    EXPECT_TRUE(keys.insert(field.key).second) << field.key << " stands twice";
    EXPECT_NE(help.find("  " + field.key + "\n"), std::string::npos) << field.key;
    EXPECT_NE(readme.find("| `" + field.key + "` |"), std::string::npos) << field.key;
    EXPECT_TRUE(field.help.ends_with('.')) << field.key;
    for (size_t dot = field.key.find('.'); dot != std::string::npos;
         dot = field.key.find('.', dot + 1))
      EXPECT_NE(find_section(field.key.substr(0, dot)), nullptr) << field.key;
  }
  for (const auto& section : recipe_sections())
    EXPECT_TRUE(section.short_for.empty() || keys.contains(section.short_for)) << section.key;
}

TEST(Reference, EveryDefaultReadsBack) {
  const Recipe defaults;
  for (const auto& field : recipe_fields()) {
    Recipe copy;
    field.set(copy, field.get(defaults));
    EXPECT_EQ(field.get(copy), field.get(defaults)) << field.key;
  }
}

}  // namespace
}  // namespace qat::recipe
