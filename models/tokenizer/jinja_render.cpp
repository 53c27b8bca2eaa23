// The interpreter. Loops have a scope of their own, nothing else has; namespaces carry values out.
#include "models/tokenizer/jinja_render.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/io/printable.h"

namespace qat::jinja {
namespace {

constexpr size_t kMostSteps = 2'000'000;
constexpr size_t kMostRead = size_t(1) << 30;  // bytes of all values that are looked at
constexpr int64_t kMostRange = 100'000;        // the limit of jinja2's sandbox

enum class Flow { on, leave_loop, next_round };

class Interpreter {
 public:
  explicit Interpreter(const Dict& variables) { scopes_.push_back(variables); }

  Rendered run(const Node& tree) {
    statement(tree);
    return std::move(rendered_);
  }

 private:
  static void set(Dict& scope, const std::string& name, Value value) {
    for (auto& [key, held] : scope) {
      if (key != name) continue;
      held = std::move(value);
      return;
    }
    scope.emplace_back(name, std::move(value));
  }
  Value look_up(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      for (const auto& [key, value] : *scope)
        if (key == name) return value;
    return Undefined{name};
  }
  void step() {
    if (++steps_ > kMostSteps) refuse("chat template: takes more than {} steps", kMostSteps);
  }
  static size_t size_of(const Value& value) {
    if (value.text() != nullptr) return value.text()->size();
    return value.list() != nullptr ? value.list()->size() * sizeof(Value) : 0;
  }
  void read(size_t bytes) {
    if ((read_ += bytes) > kMostRead) refuse("chat template: reads more than {} bytes", kMostRead);
  }
  /// A value that is walked through character by character: slower than a copy.
  void walk(const Value& value) { read(16 * size_of(value)); }
  void make(size_t bytes) {
    if ((made_ += bytes) > kMostMade) refuse("chat template: makes more than {} bytes", kMostMade);
  }
  void write(std::string_view text) {
    make(text.size());
    output_->append(text);
  }

  Flow statement(const Node& node) {
    step();
    switch (node.kind) {
      case Kind::block:
        for (const auto& child : node.children)
          if (const Flow flow = statement(*child); flow != Flow::on) return flow;
        return Flow::on;
      case Kind::text:
        write(node.text);
        return Flow::on;
      case Kind::output:
        write(to_text(evaluate(*node.children[0])));
        return Flow::on;
      case Kind::branch:
        if (evaluate(*node.children[0]).is_true()) return statement(*node.children[1]);
        return node.children[2] == nullptr ? Flow::on : statement(*node.children[2]);
      case Kind::loop:
        return loop(node);
      case Kind::assign:
        set(scopes_.back(), node.text, evaluate(*node.children[0]));
        return Flow::on;
      case Kind::assign_member: {
        const Value object = look_up(node.names[0]);
        if (!object.is_namespace())
          refuse("chat template: '{}' is no namespace, so '{}.{}' cannot be set", node.names[0],
                 node.names[0], node.names[1]);
        const Value value = evaluate(*node.children[0]);
        if (value.holds_namespace())  // it could hold itself
          refuse("chat template: a namespace inside a namespace");
        set(*object.dict(), node.names[1], value);
        return Flow::on;
      }
      case Kind::capture: {
        std::string captured;
        std::string* const outer = std::exchange(output_, &captured);
        statement(*node.children[0]);
        output_ = outer;
        set(scopes_.back(), node.text, Value(std::move(captured)));
        return Flow::on;
      }
      case Kind::generation: {
        const size_t begin = rendered_.text.size();
        const bool visible = output_ == &rendered_.text;
        const Flow flow = statement(*node.children[0]);
        if (visible) rendered_.generated.emplace_back(begin, rendered_.text.size());
        return flow;
      }
      case Kind::leave_loop:
        return Flow::leave_loop;
      case Kind::next_round:
        return Flow::next_round;
      default:
        internal_error("chat template: an expression where a statement should be");
    }
  }

  // Binds the loop's names to one element.
  void bind(const Node& node, const Value& item) {
    if (node.names.size() == 1) {
      set(scopes_.back(), node.names[0], item);
      return;
    }
    const List parts = elements(item);
    if (parts.size() != node.names.size())
      refuse("chat template: {} values for the {} names of a loop", parts.size(),
             node.names.size());
    for (size_t i = 0; i < parts.size(); ++i) set(scopes_.back(), node.names[i], parts[i]);
  }

  List filtered(const Node& node, List items) {
    if (node.children[1] == nullptr) return items;
    List kept;
    for (Value& item : items) {
      scopes_.emplace_back();
      bind(node, item);
      if (evaluate(*node.children[1]).is_true()) kept.push_back(std::move(item));
      scopes_.pop_back();
    }
    return kept;
  }

  Flow loop(const Node& node) {
    const Value over = evaluate(*node.children[0]);
    walk(over);
    const List items = filtered(node, elements(over));
    if (items.empty()) return node.children[3] == nullptr ? Flow::on : statement(*node.children[3]);
    const auto count = int64_t(items.size());
    for (int64_t i = 0; i < count; ++i) {
      scopes_.emplace_back();
      bind(node, items[size_t(i)]);
      const auto neighbour = [&](int64_t at) {
        return at < 0 || at >= count ? Value(Undefined{"loop item"}) : items[size_t(at)];
      };
      set(scopes_.back(), "loop",
          Value(Dict{{"index", i + 1},
                     {"index0", i},
                     {"revindex", count - i},
                     {"revindex0", count - i - 1},
                     {"first", i == 0},
                     {"last", i + 1 == count},
                     {"length", count},
                     {"previtem", neighbour(i - 1)},
                     {"nextitem", neighbour(i + 1)}}));
      const Flow flow = statement(*node.children[2]);
      scopes_.pop_back();
      if (flow == Flow::leave_loop) break;
    }
    return Flow::on;
  }

  Value evaluate(const Node& node) {
    step();
    Value value = value_of(node);
    const size_t bytes = size_of(value);
    read(bytes);
    const bool is_new = node.kind != Kind::constant && node.kind != Kind::name &&
                        node.kind != Kind::member && node.kind != Kind::item;
    if (is_new) make(bytes);
    return value;
  }

  Value value_of(const Node& node) {
    switch (node.kind) {
      case Kind::constant:
        return node.value;
      case Kind::name:
        return look_up(node.text);
      case Kind::member:
        return member(evaluate(*node.children[0]), node.text);
      case Kind::item:
        return item(evaluate(*node.children[0]), evaluate(*node.children[1]));
      case Kind::slice:
        return slice(node);
      case Kind::call:
        return call(node);
      case Kind::filter: {
        const Value input = evaluate(*node.children[0]);
        walk(input);
        const auto [arguments, keywords] = evaluate_arguments(node);
        return apply_filter(node.text, input, arguments, keywords);
      }
      case Kind::test: {
        const Value input = evaluate(*node.children[0]);
        return apply_test(node.text, input, evaluate_arguments(node).first);
      }
      case Kind::unary:
        return unary(node);
      case Kind::binary:
        return binary(node);
      case Kind::conditional:
        if (evaluate(*node.children[1]).is_true()) return evaluate(*node.children[0]);
        return node.children[2] == nullptr ? Value() : evaluate(*node.children[2]);
      case Kind::list: {
        List list;
        for (const auto& child : node.children) list.push_back(evaluate(*child));
        return list;
      }
      case Kind::dict: {
        Dict dict;
        for (size_t i = 0; i < node.children.size(); i += 2) {
          const Value key = evaluate(*node.children[i]);
          if (key.text() == nullptr) refuse("chat template: a key that is no text");
          set(dict, *key.text(), evaluate(*node.children[i + 1]));
        }
        return dict;
      }
      default:
        internal_error("chat template: a statement where an expression should be");
    }
  }

  std::pair<List, Dict> evaluate_arguments(const Node& node) {
    List arguments;
    Dict keywords;
    for (size_t i = 1; i < node.children.size(); ++i) {
      if (node.names[i].empty())
        arguments.push_back(evaluate(*node.children[i]));
      else
        keywords.emplace_back(node.names[i], evaluate(*node.children[i]));
    }
    return {std::move(arguments), std::move(keywords)};
  }

  Value item(const Value& object, const Value& index) {
    if (index.text() != nullptr) return member(object, *index.text());
    if (object.is_undefined())
      refuse("chat template: '{}' is undefined (looked for an item)", object.undefined_name());
    if (index.integer() == nullptr || object.dict() != nullptr) return Undefined{"item"};
    if (object.list() == nullptr && object.text() == nullptr) return Undefined{"item"};
    walk(object);
    const List items = elements(object);
    const auto count = int64_t(items.size());
    const int64_t at = *index.integer() < 0 ? *index.integer() + count : *index.integer();
    return at < 0 || at >= count ? Value(Undefined{"item"}) : items[size_t(at)];
  }

  Value slice(const Node& node) {
    const Value object = evaluate(*node.children[0]);
    if (object.list() == nullptr && object.text() == nullptr)
      refuse("chat template: a slice of a value of type {}", object.type_name());
    walk(object);
    const List items = elements(object);
    const auto count = int64_t(items.size());
    const auto bound = [&](size_t i, int64_t otherwise) {
      if (node.children[i] == nullptr) return otherwise;
      const Value value = evaluate(*node.children[i]);
      if (value.is_none()) return otherwise;
      if (value.integer() == nullptr) refuse("chat template: a slice needs whole numbers");
      return *value.integer();
    };
    const int64_t step = bound(3, 1);
    if (step == 0) refuse("chat template: a slice with step 0");
    const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
    const auto clamp = [&](int64_t at) { return std::clamp(at < 0 ? at + count : at, low, high); };
    const int64_t from = node.children[1] == nullptr ? (step > 0 ? low : high) : clamp(bound(1, 0));
    const int64_t to = node.children[2] == nullptr ? (step > 0 ? high : low) : clamp(bound(2, 0));
    List out;
    for (int64_t at = from; step > 0 ? at < to : at > to;) {
      out.push_back(items[size_t(at)]);
      if (__builtin_add_overflow(at, step, &at)) break;
    }
    if (object.text() == nullptr) return out;
    std::string text;
    for (const Value& part : out) text += *part.text();
    return text;
  }

  Value call(const Node& node) {
    const Node& callee = *node.children[0];
    if (callee.kind == Kind::member) {
      const Value object = evaluate(*callee.children[0]);
      if (object.is_undefined())
        refuse("chat template: '{}' is undefined (called its '{}')", object.undefined_name(),
               callee.text);
      walk(object);
      const auto [arguments, keywords] = evaluate_arguments(node);
      if (!keywords.empty())
        refuse("chat template: keyword arguments of the method '{}' are not supported",
               callee.text);
      return call_method(object, callee.text, arguments);
    }
    if (callee.kind != Kind::name) refuse("chat template: a call of something that has no name");
    const auto [arguments, keywords] = evaluate_arguments(node);
    if (callee.text == "raise_exception")
      refuse("the chat template refuses this conversation: {}",
             arguments.empty() ? "" : printable(to_text(arguments[0]), 500));
    if (callee.text == "namespace" || callee.text == "dict") {
      if (!arguments.empty())
        refuse("chat template: {} is supported with keyword arguments only", callee.text);
      return callee.text == "namespace" ? Value::make_namespace(keywords) : Value(keywords);
    }
    if (callee.text == "range") return range(arguments);
    refuse("chat template: the function '{}' is not supported", callee.text);
  }

  static Value range(const List& arguments) {
    int64_t bounds[3] = {0, 0, 1};
    if (arguments.empty() || arguments.size() > 3)
      refuse("chat template: range takes one to three numbers");
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].integer() == nullptr) refuse("chat template: range takes whole numbers");
      bounds[arguments.size() == 1 ? 1 : i] = *arguments[i].integer();
    }
    if (bounds[2] == 0) refuse("chat template: range with step 0");
    List out;
    for (int64_t at = bounds[0]; bounds[2] > 0 ? at < bounds[1] : at > bounds[1];) {
      if (int64_t(out.size()) >= kMostRange)
        refuse("chat template: a range of more than {} numbers", kMostRange);
      out.emplace_back(at);
      if (__builtin_add_overflow(at, bounds[2], &at)) break;
    }
    return out;
  }

  Value unary(const Node& node) {
    const Value value = evaluate(*node.children[0]);
    if (node.text == "not") return !value.is_true();
    if (value.integer() == nullptr)
      refuse("chat template: the negative of a {}", value.type_name());
    return arithmetic("-", 0, *value.integer());
  }

  Value binary(const Node& node) {
    const std::string& operation = node.text;
    const Value left = evaluate(*node.children[0]);
    if (operation == "and") return left.is_true() ? evaluate(*node.children[1]) : left;
    if (operation == "or") return left.is_true() ? left : evaluate(*node.children[1]);
    const Value right = evaluate(*node.children[1]);
    if (operation == "==") return equal(left, right);
    if (operation == "!=") return !equal(left, right);
    if (operation == "in") return is_in(left, right);
    if (operation == "not in") return !is_in(left, right);
    if (operation == "~") return to_text(left) + to_text(right);
    if (left.text() != nullptr && right.text() != nullptr) {
      if (operation == "+") return *left.text() + *right.text();
      if (operation[0] == '<' || operation[0] == '>')
        return ordered(operation, left.text()->compare(*right.text()));
    }
    if (operation == "+" && left.list() != nullptr && right.list() != nullptr) {
      List joined = *left.list();
      joined.insert(joined.end(), right.list()->begin(), right.list()->end());
      return joined;
    }
    if (left.integer() != nullptr && right.integer() != nullptr)
      return arithmetic(operation, *left.integer(), *right.integer());
    if (left.is_undefined() || right.is_undefined())
      refuse("chat template: '{}' is undefined (used with {})",
             left.is_undefined() ? left.undefined_name() : right.undefined_name(), operation);
    refuse("chat template: {} {} {} cannot be done", left.type_name(), operation,
           right.type_name());
  }

  static Value ordered(const std::string& operation, int64_t difference) {
    if (operation == "<") return difference < 0;
    if (operation == "<=") return difference <= 0;
    if (operation == ">") return difference > 0;
    return difference >= 0;
  }

  static Value arithmetic(const std::string& operation, int64_t a, int64_t b) {
    if (operation[0] == '<' || operation[0] == '>')
      return ordered(operation, a < b ? -1 : a > b ? 1 : 0);
    int64_t result = 0;
    bool overflow = false;
    if (operation == "+") overflow = __builtin_add_overflow(a, b, &result);
    if (operation == "-") overflow = __builtin_sub_overflow(a, b, &result);
    if (operation == "*") overflow = __builtin_mul_overflow(a, b, &result);
    if (operation == "%" || operation == "//") {
      if (b == 0 || (a == INT64_MIN && b == -1)) refuse("chat template: division by zero");
      // Python rounds towards minus infinity.
      const int64_t quotient = a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
      result = operation == "//" ? quotient : a - quotient * b;
    }
    if (overflow) refuse("chat template: a number too large");
    return result;
  }

  std::vector<Dict> scopes_;
  Rendered rendered_;
  std::string* output_ = &rendered_.text;
  size_t steps_ = 0, read_ = 0, made_ = 0;
};

}  // namespace

Rendered render(const Node& tree, const Dict& variables) {
  return Interpreter(variables).run(tree);
}

}  // namespace qat::jinja
