// The visitor that sorts a tokenizer.json into tables and tree.
#include "models/tokenizer/tokenizer_document.h"

#include <utility>

#include "engine/core/error.h"

namespace qat {
namespace {

class DocumentVisitor : public JsonVisitor {
 public:
  explicit DocumentVisitor(const std::string& name) : name_(name) {}

  void begin_object(size_t) override {
    if (place_ == Place::vocab || place_ == Place::merges) refuse_item("an object");
    if (is_member("vocab")) {
      document_.has_vocab = true;
      place_ = Place::vocab;
      return;
    }
    stack_.push_back(put(Json::object()));
    keys_.emplace_back();
  }
  void end_object(size_t) override {
    if (place_ == Place::vocab) {
      place_ = Place::tree;
      return;
    }
    stack_.pop_back();
    keys_.pop_back();
  }
  void begin_array(size_t) override {
    if (place_ == Place::vocab || place_ == Place::pair) refuse_item("a list");
    if (place_ == Place::merges) {
      place_ = Place::pair;
      pair_.clear();
      return;
    }
    if (is_member("merges")) {
      document_.has_merges = true;
      place_ = Place::merges;
      return;
    }
    stack_.push_back(put(Json::array()));
    keys_.emplace_back();
  }
  void end_array(size_t) override {
    if (place_ == Place::pair) {
      if (pair_.size() != 2) refuse_item("a list of another length");
      add_merge(pair_[0], pair_[1]);
      place_ = Place::merges;
      return;
    }
    if (place_ == Place::merges) {
      place_ = Place::tree;
      return;
    }
    stack_.pop_back();
    keys_.pop_back();
  }
  void key(std::string& name, size_t offset) override {
    if (place_ == Place::vocab) {
      piece_.swap(name);
      return;
    }
    keys_.back() = name;
    auto [slot, inserted] = stack_.back()->get_ref<Json::object_t&>().try_emplace(name);
    const bool repeated =
        stack_.size() == 2 && keys_.front() == "model" &&
        ((name == "vocab" && document_.has_vocab) || (name == "merges" && document_.has_merges));
    if (!inserted || repeated)
      refuse("{}: duplicate key \"{}\" at byte {}", name_, name.substr(0, 100), offset);
    slot_ = &slot->second;
  }
  void string(std::string& value, size_t) override {
    if (place_ == Place::pair) {
      pair_.push_back(std::move(value));
    } else if (place_ == Place::merges) {
      add_joined_merge(value);
    } else if (place_ == Place::vocab) {
      refuse_item("a string");
    } else {
      put(std::move(value));
    }
  }
  void integer(int64_t value, size_t) override { number(value); }
  void unsigned_integer(uint64_t value, size_t) override {
    number(value > uint64_t(INT64_MAX) ? INT64_MAX : int64_t(value));
  }
  void real(double value, size_t) override { scalar(value, "a fraction"); }
  void boolean(bool value, size_t) override { scalar(value, "a boolean"); }
  void null(size_t) override { scalar(nullptr, "null"); }

  TokenizerDocument take() {
    if (!root_.is_object())
      refuse("{}: expected a JSON object, got {}", name_, std::string(root_.type_name()));
    document_.rest = std::move(root_);
    return std::move(document_);
  }

 private:
  enum class Place { tree, vocab, merges, pair };

  // Whether the value that comes now is that of model.<name>.
  bool is_member(const char* name) const {
    return stack_.size() == 2 && stack_.back()->is_object() && keys_[0] == "model" &&
           keys_[1] == name;
  }

  [[noreturn]] void refuse_item(const char* got) const {
    if (place_ == Place::vocab)
      refuse("{}.model.vocab[\"{}\"]: expected a whole number, got {}", name_, piece_, got);
    refuse("{}.model.merges[{}]: expected a string \"left right\" or a list of two strings, got {}",
           name_, document_.merges.size(), got);
  }

  void number(int64_t value) {
    if (place_ != Place::vocab) {
      scalar(value, "a number");
      return;
    }
    if (value < 0 || value > Vocabulary::kMaxId)
      refuse("{}.model.vocab[\"{}\"]: token id {} is not between 0 and {}", name_, piece_, value,
             Vocabulary::kMaxId);
    if (document_.pieces.contains(value))
      refuse("{}.model.vocab[\"{}\"]: id {} is already that of '{}'", name_, piece_, value,
             document_.pieces.piece(value));
    if (!document_.pieces.add(piece_, value))
      refuse("{}.model.vocab: duplicate key \"{}\"", name_, piece_);
  }

  template <class T>
  void scalar(T value, const char* what) {
    if (place_ != Place::tree) refuse_item(what);
    put(value);
  }

  void add_merge(std::string_view left, std::string_view right) {
    if (left.empty() || right.empty()) refuse_item("a piece that is empty");
    document_.merges.add(left, right);
  }

  void add_joined_merge(const std::string& text) {
    if (text.starts_with("#version")) return;
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      refuse_item("a string without exactly one space");
    add_merge(std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1));
  }

  template <class T>
  Json* put(T&& value) {
    if (stack_.empty()) {
      root_ = Json(std::forward<T>(value));
      return &root_;
    }
    if (stack_.back()->is_array()) {
      auto& items = stack_.back()->get_ref<Json::array_t&>();
      items.emplace_back(std::forward<T>(value));
      return &items.back();
    }
    *slot_ = Json(std::forward<T>(value));
    return slot_;
  }

  const std::string& name_;
  TokenizerDocument document_;
  Json root_;
  std::vector<Json*> stack_;
  std::vector<std::string> keys_;  // the current key of each open object
  Json* slot_ = nullptr;
  Place place_ = Place::tree;
  std::string piece_;
  std::vector<std::string> pair_;
};

}  // namespace

void MergeTexts::add(std::string_view left, std::string_view right) {
  spans_.push_back({uint32_t(text_.size()), uint32_t(left.size()), uint32_t(right.size())});
  text_.append(left).append(right);
}

TokenizerDocument parse_tokenizer_document(std::string_view text, const std::string& name) {
  DocumentVisitor visitor(name);
  visit_json(text, name, visitor);
  return visitor.take();
}

}  // namespace qat
