// Normalizer: each step reads the text before it and may leave it alone.
#include "models/tokenizer/normalizer.h"

#include <utility>

#include "models/tokenizer/unicode.h"

namespace qat {
namespace {

// Appends `text` to `out` with every occurrence of the pattern replaced.
void append_replaced(std::string_view text, const NormalizerStep& step, std::string& out) {
  size_t from = 0;
  for (size_t at = text.find(step.pattern); at != std::string_view::npos;
       at = text.find(step.pattern, from)) {
    out.append(text.substr(from, at - from));
    out.append(step.content);
    from = at + step.pattern.size();
  }
  out.append(text.substr(from));
}

}  // namespace

std::string_view Normalizer::apply(std::string_view text, std::string& storage) const {
  std::string other;
  for (const NormalizerStep& step : steps_) {
    other.clear();
    switch (step.kind) {
      case NormalizerStep::Kind::nfc:
        if (unicode::nfc(text, other).data() == text.data()) continue;
        break;
      case NormalizerStep::Kind::prepend:
        if (text.empty()) continue;
        other.reserve(text.size() * 5 / 4 + step.content.size());
        other.append(step.content);
        other.append(text);
        break;
      case NormalizerStep::Kind::replace:
        if (text.find(step.pattern) == std::string_view::npos) continue;
        other.reserve(text.size() * 3 / 2);
        append_replaced(text, step, other);
        break;
    }
    storage.swap(other);
    text = storage;
  }
  return text;
}

}  // namespace qat
