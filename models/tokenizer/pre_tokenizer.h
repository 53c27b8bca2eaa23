// Cutting normalized text into the pieces that the model encodes one by one: a chain of steps, each
// of which cuts what the step before it produced.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

/// Whether a piece begins where the whole text begins.
enum class Place { first, later };

class PieceSink {
 public:
  virtual ~PieceSink() = default;
  /// piece is valid UTF-8, not empty, and lives until the call returns.
  virtual void take(std::string_view piece, Place place) = 0;
};

class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  /// Hands every piece of `text`, in order, to the sink.
  virtual void cut(std::string_view text, Place place, PieceSink& sink) const = 0;
};

/// What becomes of the parts that a pattern matches.
enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

/// Whether the parts between the matches count as the matches.
enum class Invert { no, yes };

/// A run of text that matched a pattern, or that lies between matches.
struct Part {
  size_t begin, end;
  bool matched;
};

/// Applies a behavior to parts that cover the text in order and hands on what remains.
void emit_parts(std::string_view text, Place place, std::vector<Part>& parts, Behavior behavior,
                PieceSink& sink);

/// The regular expressions that have a hand-written splitter.
enum class KnownRegex { gpt2, llama3, qwen2 };
extern const std::string_view kGpt2Regex, kLlama3Regex, kQwen2Regex;

/// Cuts at the matches of a known expression (they cover any text).
std::unique_ptr<PreTokenizerStep> make_known_regex_step(KnownRegex regex);
/// Split with a regular expression: hand-written where the text of the expression and the behavior
/// allow, PCRE2 otherwise. Refuses what the two dialects may not read alike; `where` names the
/// step.
std::unique_ptr<PreTokenizerStep> make_regex_step(const std::string& pattern, Behavior behavior,
                                                  Invert invert, const std::string& where);
/// Split on a plain string.
std::unique_ptr<PreTokenizerStep> make_string_step(const std::string& pattern, Behavior behavior,
                                                   Invert invert);
enum class DigitRuns { individual, together };
std::unique_ptr<PreTokenizerStep> make_digits_step(DigitRuns runs);
std::unique_ptr<PreTokenizerStep> make_punctuation_step(Behavior behavior);
/// ByteLevel's add_prefix_space: a piece that does not begin with a space gets one.
std::unique_ptr<PreTokenizerStep> make_prefix_space_step();
enum class PrependScheme { first, never, always };
enum class MarkSplit { none, before_each };
/// Metaspace: spaces become `mark`, which may be put in front; `split` may cut before each mark.
std::unique_ptr<PreTokenizerStep> make_metaspace_step(const std::string& mark, PrependScheme scheme,
                                                      MarkSplit split);

}  // namespace qat
