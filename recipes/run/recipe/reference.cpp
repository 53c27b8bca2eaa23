// The field table as people read it: the terminal's help and recipes/README.md.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "recipes/run/recipe/field.h"
#include "recipes/run/recipe/presets.h"
#include "recipes/run/recipe/recipe.h"
#include "recipes/run/recipe/words.h"

namespace qat::recipe {
namespace {

std::string default_text(const Field& field) {
  if (field.need == Need::required) return "required";
  if (!field.default_note.empty()) return field.default_note;
  const Recipe defaults;
  return yaml_value(field, field.get(defaults));
}

std::string section_of(const std::string& key) {
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

/// Words of a text on lines of at most `width` bytes, each after `indent` spaces.
std::string wrapped(const std::string& text, size_t indent, size_t width) {
  std::istringstream words(text);
  std::string out, line, word;
  const auto end_line = [&] {
    out += std::string(indent, ' ') + line + "\n";
    line.clear();
  };
  while (words >> word) {
    if (!line.empty() && indent + line.size() + 1 + word.size() > width) end_line();
    if (!line.empty()) line += ' ';
    line += word;
  }
  if (!line.empty()) end_line();
  return out;
}

/// A cell of a Markdown table.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|' || c == '*' || c == '<') out += '\\';
    out += c;
  }
  return out;
}

std::string meaning(const Field& field) {
  return field.help +
         (field.when.means ? fmt::format(" Only where {}.", field.when.means) : std::string());
}

std::string grid_text(const QuantSpec& spec, bool quantized, const std::string& row_word) {
  if (!quantized) return "not quantized";
  if (spec.form == Form::q4_k)
    return "Q4_K: int4 in super-blocks of 256, 6-bit scales and minima per group of 32";
  if (spec.form == Form::q6_k)
    return "Q6_K: int6 in super-blocks of 256, 8-bit scales per group of 16";
  const std::string per = spec.per == Per::group    ? fmt::format("group of {}", spec.group)
                          : spec.per == Per::tensor ? "tensor"
                                                    : row_word;
  if (spec.form == Form::e4m3)
    return fmt::format("float8 e4m3, up to 448, a scale per {} ({}, {})", per, word_of(spec.rule),
                       word_of(spec.scale_type));
  return fmt::format("int{}, codes {} to {}, a scale per {} ({}, {})", spec.bits, spec.qmin(),
                     spec.qmax(), per, word_of(spec.rule), word_of(spec.scale_type));
}

std::string weights_text(const WeightQuant& weights) {
  return grid_text(weights.spec(), weights.bits.has_value(), "output channel");
}

std::string activations_text(const ActivationQuant& activations) {
  return grid_text(activations.spec(), activations.bits.has_value(), "token") +
         (activations.bits && !activations.dynamic ? ", calibrated" : "");
}

constexpr const char* kIntroduction =
    R"(# Recipes

A recipe is a YAML file that says everything about one run: `qat-train recipes/quickstart.yaml`.
This page is generated from the field table in `recipes/run/recipe/field_table.cpp`
(`QAT_UPDATE_REFERENCE=1 build/bin/test_recipe` writes it); so are `qat-train --help-recipe` and
`recipe.schema.json`. An editor that knows YAML schemas completes and checks keys in a file that
begins with `# yaml-language-server: $schema=recipe.schema.json`. [GUIDE.md](GUIDE.md) says which recipe is
for which case.

| recipe | what it does |
| --- | --- |
| `quickstart.yaml` | SmolLM2-135M-Instruct to 8-bit weights and activations, a few minutes on a CPU |
| `stories-w8a8.yaml` | the same path for a 260K-parameter story model, in under a minute |
| `smollm2-w4a8.yaml` | SmolLM2-135M-Instruct to 4-bit weights and 8-bit activations |
| `smollm2-w4a16.yaml` | the same model to compressed-tensors W4A16, for vLLM |
| `smollm2-gptq.yaml` | to GPTQ, and the same codes to compressed-tensors |
| `smollm2-awq.yaml` | to AWQ's container, with zero points |
| `smollm2-w4a4-rotated.yaml` | to 4-bit weights and activations, rotated so that four bits hold them |
| `stories-w4a4-rotated.yaml` | the same for the story model, in under a minute |
| `smollm2-w2.yaml` | to 2-bit weights on four levels without 0, with trained scales |
| `smollm2-auto-bits.yaml` | to compressed-tensors with 4 or 8 bits a matrix, chosen by measurement within 5 bits a weight |
| `stories-auto-bits.yaml` | the same for the story model, in under a minute |
| `gsm8k-w8a8.yaml` | SmolLM2-135M-Instruct on questions and answers, the loss on the answers only |
| `smollm2-portable-w4.yaml` | to int4 codes that llama.cpp, compressed-tensors and GPTQ files all hold |
| `smollm2-gguf-q4_0.yaml` | to a GGUF file of Q4_0 blocks, for llama.cpp |
| `pretrain-tiny.yaml` | a small story model from nothing, quantized in the last third |
| `pretrain-tiny-256.yaml` | another one, whose rows divide into super-blocks of 256 |
| `tiny-gguf-q4_k.yaml` | that one to a GGUF file of Q4_K and Q6_K, for llama.cpp |

## How a recipe is read

- Keys are nested maps; `--set train.steps=20` (the value is YAML) overrides one after the file is
  read. A key of the file that such an option makes meaningless is dropped with a warning:
  `--set distill=none` also drops the file's `distill.kl`.
- Where a section's text says so, a single value may stand for its map: `distill: self` is
  `distill: {teacher: self}`. Where a list is expected, one value stands for a list of one.
- Paths are relative to the directory the command runs in, not to the recipe. `~/`, `$NAME` and
  `${NAME}` are expanded in them; `$$` is a dollar sign.
- Switches are `true` or `false` (or `on`, `off`); `yes` and `no` are refused. Numbers are decimal:
  `1e-4` and `0.0001` are the same, `0x10` and `.nan` are refused.
- Anchors, aliases, merges (`<<`), tags and a second document are refused, and so is a key that is
  unknown, stands twice, or has no effect beside the others. Every refusal is one line,
  `file:line: key: expected ..., got ...; what to do`, and the exit code is 2.
- The run directory's `recipe.yaml` is the recipe with every default filled in. A run goes on only
  with the same values of the keys that are marked *fixed* below, unless `resume_allow` names them;
  the other keys never change the numbers of a run and may differ.
)";

std::string preset_table() {
  std::string out =
      "\n## Presets\n\n`quantize.preset` names what a deployment target multiplies; each key under "
      "`quantize.weights`\nand `quantize.activations` overrides one field of it. A preset's group "
      "that does not divide a\nmatrix's rows falls back for that matrix; a group written by hand "
      "is refused there.\n\n| preset | for | weights | activations |\n| --- | --- | --- | --- |\n";
  for (const auto& preset : presets()) {
    const std::string alias =
        preset.stands_for.empty() ? "" : fmt::format(" (stands for `{}`)", preset.stands_for);
    out += fmt::format("| `{}`{} | {}: {} | {} | {} |\n", preset.name, alias, preset.target,
                       cell(preset.description), weights_text(preset.weights),
                       activations_text(preset.activations));
  }
  return out;
}

/// " with weights.bits 4, ...": where a grid is not the preset's.
std::string changes(const Preset& preset, const QuantizeOptions& quantize) {
  Recipe pure, written;
  pure.quantize.weights = preset.weights;
  pure.quantize.activations = preset.activations;
  written.quantize = quantize;
  std::string changed;
  for (const Field& field : recipe_fields()) {
    const bool grid = field.key.starts_with("quantize.weights.") ||
                      field.key.starts_with("quantize.activations.");
    const FieldValue value = field.get(written);
    if (!grid || value == field.get(pure) || (field.when.holds && !field.when.holds(written)))
      continue;
    changed +=
        fmt::format("{}{} {}", changed.empty() ? " with " : ", ",
                    field.key.substr(std::string("quantize.").size()), yaml_value(field, value));
  }
  return changed;
}

/// ", down_proj=8, each matrix of 4 or 8 bits by measurement, ...": what is not as weights.bits
/// says.
std::string widths_text(const QuantizeOptions& quantize) {
  std::string out;
  for (const WidthOverride& width : quantize.overrides)
    out +=
        fmt::format(", {}={}", width.pattern, width.bits ? fmt::format("{}", *width.bits) : "none");
  if (quantize.auto_bits.any())
    out +=
        fmt::format(", each matrix of {} bits by measurement, at most {} bits a weight",
                    fmt::join(quantize.auto_bits.candidates, " or "), *quantize.auto_bits.budget);
  return out;
}

std::string section_heading(const std::string& key) {
  if (key.empty()) return "\n## The run\n";
  const Section& section = *find_section(key);
  std::string out = fmt::format("\n## {}\n\n{}", key, section.help);
  if (!section.short_for.empty())
    out += fmt::format(" A single value stands for `{}`.", section.short_for);
  return out + "\n";
}

}  // namespace

std::string recipe_help() {
  constexpr size_t kWidth = 100;
  std::string out;
  std::string before = "?";
  for (const auto& field : recipe_fields()) {
    const std::string section = section_of(field.key);
    if (section != before && !section.empty())
      out += fmt::format("\n{}", wrapped(section + ": " + find_section(section)->help, 0, kWidth));
    if (section != before && section.empty()) out += "\n";
    before = section;
    out += fmt::format("  {}\n", field.key);
    out +=
        wrapped(fmt::format("{}; {}{}", expectation(field),
                            field.need == Need::required ? "" : "default: ", default_text(field)),
                6, kWidth);
    out += wrapped(meaning(field), 6, kWidth);
  }
  out += "\nPresets (quantize.preset):\n";
  for (const auto& preset : presets()) {
    out += fmt::format("  {}\n", preset.name);
    out += wrapped(preset.description, 6, kWidth);
  }
  return out;
}

std::string recipe_reference() {
  std::string out = kIntroduction;
  out += preset_table();
  // Keys at the top stand in several places of the table, but under one heading here.
  std::vector<std::string> sections = {""};
  for (const auto& section : recipe_sections()) sections.push_back(section.key);
  for (const auto& section : sections) {
    std::string rows;
    for (const auto& field : recipe_fields()) {
      if (section_of(field.key) != section) continue;
      rows += fmt::format("| `{}` | {} | {} | {} | {} |\n", field.key, cell(expectation(field)),
                          cell(default_text(field)), field.matters == Matters::yes ? "fixed" : "",
                          cell(meaning(field)));
    }
    if (rows.empty()) continue;
    out += section_heading(section) +
           "\n| key | takes | default | resume | meaning |\n| --- | --- | --- | --- | --- |\n" +
           rows;
  }
  return out;
}

std::string scheme_text(const QuantizeOptions& quantize) {
  if (!quantize.any()) return "none";
  return fmt::format("{}{}: weights {}{}; activations {}",
                     quantize.preset == "none" ? "no preset" : quantize.preset,
                     changes(preset_named(quantize.preset), quantize),
                     weights_text(quantize.weights), widths_text(quantize),
                     activations_text(quantize.activations));
}

std::string alias_text(const QuantizeOptions& quantize) {
  const Preset& alias = preset_named(quantize.preset);
  if (alias.stands_for.empty()) return "";
  const Preset& preset = preset_named(alias.stands_for);
  QuantizeOptions own;
  apply_preset(alias, own);
  return fmt::format("{} stands for {} ({}){}", alias.name, preset.name, preset.target,
                     changes(preset, own));
}

}  // namespace qat::recipe
