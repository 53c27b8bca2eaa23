// Recursive descent over the parts, with jinja2's precedence of operators.
#include "models/tokenizer/jinja_parser.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/core/error.h"
#include "engine/io/printable.h"
#include "models/tokenizer/jinja_lexer.h"

namespace qat::jinja {
namespace {

using NodePtr = std::unique_ptr<Node>;

constexpr int kDeepest = 100;
constexpr int kLongest = 1000;  // operators of one tag: each may be a level of the tree

template <class... Children>
NodePtr make(Kind kind, std::string text = {}, Children... children) {
  auto node = std::make_unique<Node>();
  node->kind = kind;
  node->text = std::move(text);
  (node->children.push_back(std::move(children)), ...);
  return node;
}

NodePtr constant(Value value) {
  NodePtr node = make(Kind::constant);
  node->value = std::move(value);
  return node;
}

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

constexpr std::array<std::string_view, 26> kFilters = {
    "trim", "tojson",     "length", "count",   "string",  "upper",      "lower",
    "join", "first",      "last",   "default", "d",       "replace",    "list",
    "int",  "capitalize", "title",  "safe",    "reverse", "selectattr", "rejectattr",
    "map",  "items",      "indent", "abs",     "unique"};
constexpr std::array<std::string_view, 17> kTests = {
    "defined",  "undefined", "none",    "string",  "mapping", "iterable",
    "sequence", "number",    "integer", "boolean", "equalto", "eq",
    "in",       "true",      "false",   "odd",     "even"};

// One expression, out of the tokens of one tag.
class ExpressionParser {
 public:
  ExpressionParser(const std::vector<Token>& tokens, int line) : tokens_(tokens), line_(line) {}

  [[noreturn]] void broken(const std::string& what) const {
    refuse("chat template, line {}: {}", line_, what);
  }
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  bool at_end() const { return peek().type == Token::Type::end; }
  bool is_symbol(std::string_view symbol, size_t ahead = 0) const {
    return peek(ahead).type == Token::Type::symbol && peek(ahead).text == symbol;
  }
  bool is_word(std::string_view word, size_t ahead = 0) const {
    return peek(ahead).type == Token::Type::name && peek(ahead).text == word;
  }
  bool take_symbol(std::string_view symbol) { return is_symbol(symbol) && (++at_, true); }
  bool take_word(std::string_view word) { return is_word(word) && (++at_, true); }
  void expect_symbol(std::string_view symbol) {
    if (!take_symbol(symbol))
      broken(fmt::format("expected '{}', got '{}'", symbol, at_end() ? "the end" : shown()));
  }
  std::string take_name() {
    if (peek().type != Token::Type::name) broken(fmt::format("expected a name, got '{}'", shown()));
    return tokens_[at_++].text;
  }
  void expect_end() const {
    if (!at_end()) broken(fmt::format("unexpected '{}'", shown()));
  }

  NodePtr expression() {
    if (++depth_ > kDeepest) broken("nested too deep");
    NodePtr value = either();
    while (take_word("if")) {
      NodePtr condition = either();
      NodePtr otherwise = take_word("else") ? expression() : nullptr;
      value =
          link(Kind::conditional, {}, std::move(value), std::move(condition), std::move(otherwise));
    }
    --depth_;
    return value;
  }
  /// Without `if`, for the list of a loop.
  NodePtr either() {
    NodePtr left = both();
    while (take_word("or")) left = link(Kind::binary, "or", std::move(left), both());
    return left;
  }

 private:
  std::string shown() const {
    return peek().type == Token::Type::integer ? std::to_string(peek().number)
                                               : printable(peek().text);
  }
  /// A node above those that were read before, as in a ~ b ~ c.
  template <class... Children>
  NodePtr link(Kind kind, std::string text, Children... children) {
    if (++links_ > kLongest) broken("an expression that is too long");
    return make(kind, std::move(text), std::move(children)...);
  }

  NodePtr both() {
    NodePtr left = negation();
    while (take_word("and")) left = link(Kind::binary, "and", std::move(left), negation());
    return left;
  }
  NodePtr negation() {
    if (++depth_ > kDeepest) broken("nested too deep");
    NodePtr node;
    if (is_word("not") && !is_word("in", 1)) {
      ++at_;
      node = make(Kind::unary, "not", negation());
    } else {
      node = comparison();
    }
    --depth_;
    return node;
  }
  NodePtr comparison() {
    NodePtr left = sum();
    std::string operation;
    int compared = 0;
    while (true) {
      operation.clear();
      for (const char* symbol : {"==", "!=", "<=", ">=", "<", ">"})
        if (operation.empty() && take_symbol(symbol)) operation = symbol;
      if (operation.empty() && take_word("in")) operation = "in";
      if (operation.empty() && is_word("not") && is_word("in", 1)) {
        at_ += 2;
        operation = "not in";
      }
      if (operation.empty()) return left;
      if (++compared > 1) broken("a chain of comparisons is not supported");
      left = link(Kind::binary, operation, std::move(left), sum());
    }
  }
  NodePtr sum() {
    NodePtr left = concatenation();
    while (is_symbol("+") || is_symbol("-")) {
      const std::string operation = tokens_[at_++].text;
      left = link(Kind::binary, operation, std::move(left), concatenation());
    }
    return left;
  }
  NodePtr concatenation() {
    NodePtr left = product();
    while (take_symbol("~")) left = link(Kind::binary, "~", std::move(left), product());
    return left;
  }
  NodePtr product() {
    NodePtr left = signed_value(Filters::allowed);
    while (is_symbol("*") || is_symbol("//") || is_symbol("%") || is_symbol("/") ||
           is_symbol("**")) {
      const std::string operation = tokens_[at_++].text;
      if (operation == "/" || operation == "**")
        broken("the operator " + operation + " is not supported");
      left = link(Kind::binary, operation, std::move(left), signed_value(Filters::allowed));
    }
    return left;
  }

  enum class Filters { allowed, later };
  NodePtr signed_value(Filters filters) {
    if (++depth_ > kDeepest) broken("nested too deep");
    NodePtr node;
    if (take_symbol("-"))
      node = make(Kind::unary, "-", signed_value(Filters::later));
    else
      node = postfix(primary());
    if (filters == Filters::allowed) node = filtered(std::move(node));
    --depth_;
    return node;
  }

  NodePtr primary() {
    const Token& token = peek();
    if (token.type == Token::Type::integer) {
      ++at_;
      return constant(token.number);
    }
    if (token.type == Token::Type::text) {
      std::string text;
      while (peek().type == Token::Type::text) text += tokens_[at_++].text;
      return constant(std::move(text));
    }
    if (token.type == Token::Type::name) {
      ++at_;
      if (token.text == "true" || token.text == "True") return constant(true);
      if (token.text == "false" || token.text == "False") return constant(false);
      if (token.text == "none" || token.text == "None") return constant(None{});
      return make(Kind::name, token.text);
    }
    if (take_symbol("(")) {
      NodePtr inner = expression();
      if (is_symbol(",")) broken("a tuple is not supported");
      expect_symbol(")");
      return inner;
    }
    if (take_symbol("[")) {
      NodePtr list = make(Kind::list);
      while (!take_symbol("]")) {
        list->children.push_back(expression());
        if (!is_symbol("]")) expect_symbol(",");
      }
      return list;
    }
    if (take_symbol("{")) {
      NodePtr dict = make(Kind::dict);
      while (!take_symbol("}")) {
        dict->children.push_back(expression());
        expect_symbol(":");
        dict->children.push_back(expression());
        if (!is_symbol("}")) expect_symbol(",");
      }
      return dict;
    }
    broken(at_end() ? "expected a value" : fmt::format("unexpected '{}'", shown()));
  }

  NodePtr postfix(NodePtr node) {
    while (true) {
      if (take_symbol(".")) {
        node = link(Kind::member, take_name(), std::move(node));
      } else if (take_symbol("[")) {
        node = subscript(std::move(node));
      } else if (take_symbol("(")) {
        node = link(Kind::call, {}, std::move(node));
        arguments(*node);
      } else {
        return node;
      }
    }
  }

  NodePtr subscript(NodePtr object) {
    std::array<NodePtr, 3> bounds;
    bool slice = false;
    for (size_t i = 0; i < 3; ++i) {
      if (!is_symbol(":") && !is_symbol("]")) bounds[i] = expression();
      if (!take_symbol(":")) break;
      slice = true;
    }
    expect_symbol("]");
    if (slice)
      return link(Kind::slice, {}, std::move(object), std::move(bounds[0]), std::move(bounds[1]),
                  std::move(bounds[2]));
    if (bounds[0] == nullptr) broken("an empty subscript");
    return link(Kind::item, {}, std::move(object), std::move(bounds[0]));
  }

  // Up to the closing bracket; names has an entry for each child of the node.
  void arguments(Node& node) {
    node.names.resize(node.children.size());
    while (!take_symbol(")")) {
      std::string keyword;
      if (peek().type == Token::Type::name && is_symbol("=", 1)) {
        keyword = take_name();
        ++at_;
      }
      node.names.push_back(keyword);
      node.children.push_back(expression());
      if (!is_symbol(")")) expect_symbol(",");
    }
  }

  NodePtr filtered(NodePtr node) {
    while (true) {
      if (take_symbol("|")) {
        const std::string name = take_name();
        if (!contains(kFilters, name))
          broken(fmt::format("the filter '{}' is not supported", name));
        node = link(Kind::filter, name, std::move(node));
        if (take_symbol("("))
          arguments(*node);
        else
          node->names.resize(1);
      } else if (take_word("is")) {
        const bool negated = take_word("not");
        std::string name = take_name();
        if (!contains(kTests, name)) broken(fmt::format("the test '{}' is not supported", name));
        node = link(Kind::test, name, std::move(node));
        node->names.resize(1);
        if (take_symbol("(")) {
          arguments(*node);
        } else if (name == "equalto" || name == "eq" || name == "in") {
          node->children.push_back(postfix(primary()));
          node->names.emplace_back();
        }
        if (negated) node = make(Kind::unary, "not", std::move(node));
      } else {
        return node;
      }
    }
  }

  const std::vector<Token>& tokens_;
  int line_;
  size_t at_ = 0;
  int depth_ = 0;
  int links_ = 0;
};

class TemplateParser {
 public:
  explicit TemplateParser(std::string_view source) : parts_(cut_template(source)) {}

  NodePtr parse() {
    NodePtr block = statements();
    if (at_ < parts_.size())
      refuse("chat template, line {}: unexpected '{}'", parts_[at_].line, word());
    return block;
  }

 private:
  // The first word of the current statement.
  std::string word() const { return printable(parts_[at_].tokens.front().text); }
  bool at_statement() const {
    return at_ < parts_.size() && parts_[at_].type == Part::Type::statement;
  }

  // Until a statement that only an outer one can take.
  NodePtr statements() {
    if (++depth_ > kDeepest) refuse("chat template: nested too deep");
    NodePtr block = make(Kind::block);
    while (at_ < parts_.size()) {
      const Part& part = parts_[at_];
      if (part.type == Part::Type::text) {
        block->children.push_back(make(Kind::text, part.text));
        ++at_;
      } else if (part.type == Part::Type::output) {
        ExpressionParser parser(part.tokens, part.line);
        block->children.push_back(make(Kind::output, {}, parser.expression()));
        parser.expect_end();
        ++at_;
      } else if (NodePtr node = statement()) {
        block->children.push_back(std::move(node));
      } else {
        break;
      }
    }
    --depth_;
    return block;
  }

  // Null at else, elif and the ends of blocks.
  NodePtr statement() {
    const Part& part = parts_[at_];
    ExpressionParser parser(part.tokens, part.line);
    if (parser.take_word("if")) return branch(parser);
    if (parser.take_word("for")) return loop(parser);
    if (parser.take_word("set")) return assignment(parser);
    if (parser.take_word("generation")) {
      parser.expect_end();
      if (std::exchange(in_generation_, true)) parser.broken("generation inside generation");
      ++at_;
      NodePtr body = statements();
      in_generation_ = false;
      end("endgeneration", part.line);
      return make(Kind::generation, {}, std::move(body));
    }
    for (const auto& [name, kind] :
         {std::pair{"break", Kind::leave_loop}, std::pair{"continue", Kind::next_round}}) {
      if (!parser.take_word(name)) continue;
      parser.expect_end();
      if (loops_ == 0) parser.broken(std::string(name) + " outside a loop");
      ++at_;
      return make(kind);
    }
    for (const char* closing : {"else", "elif", "endif", "endfor", "endset", "endgeneration"})
      if (parser.is_word(closing)) return nullptr;
    parser.broken(fmt::format("the statement '{}' is not supported", word()));
  }

  void end(const char* name, int opened) {
    if (!at_statement() || word() != name)
      refuse("chat template, line {}: expected {} for what this line opens", opened, name);
    const ExpressionParser parser(parts_[at_].tokens, parts_[at_].line);
    if (parts_[at_].tokens.size() != 2) parser.broken(fmt::format("text behind {}", name));
    ++at_;
  }

  // At an if or elif whose word has been taken.
  NodePtr branch(ExpressionParser& parser) {
    const int line = parts_[at_].line;
    NodePtr condition = parser.expression();
    parser.expect_end();
    ++at_;
    NodePtr then = statements(), otherwise;
    if (at_statement() && word() == "elif") {
      ExpressionParser next(parts_[at_].tokens, parts_[at_].line);
      next.take_word("elif");
      if (++depth_ > kDeepest) refuse("chat template: nested too deep");
      otherwise = branch(next);
      --depth_;
      return make(Kind::branch, {}, std::move(condition), std::move(then), std::move(otherwise));
    }
    if (at_statement() && word() == "else") {
      end("else", line);
      otherwise = statements();
    }
    end("endif", line);
    return make(Kind::branch, {}, std::move(condition), std::move(then), std::move(otherwise));
  }

  NodePtr loop(ExpressionParser& parser) {
    const int line = parts_[at_].line;
    NodePtr node = make(Kind::loop);
    do {
      node->names.push_back(parser.take_name());
    } while (parser.take_symbol(","));
    if (!parser.take_word("in")) parser.broken("expected 'in'");
    node->children.push_back(parser.either());
    node->children.push_back(parser.take_word("if") ? parser.expression() : nullptr);
    if (parser.is_word("recursive")) parser.broken("a recursive loop is not supported");
    parser.expect_end();
    ++at_;
    ++loops_;
    node->children.push_back(statements());
    --loops_;
    NodePtr otherwise;
    if (at_statement() && word() == "else") {
      end("else", line);
      otherwise = statements();
    }
    end("endfor", line);
    node->children.push_back(std::move(otherwise));
    return node;
  }

  NodePtr assignment(ExpressionParser& parser) {
    const int line = parts_[at_].line;
    const std::string name = parser.take_name();
    if (parser.take_symbol(".")) {
      NodePtr node = make(Kind::assign_member);
      node->names = {name, parser.take_name()};
      parser.expect_symbol("=");
      node->children.push_back(parser.expression());
      parser.expect_end();
      ++at_;
      return node;
    }
    if (parser.take_symbol("=")) {
      NodePtr value = parser.expression();
      parser.expect_end();
      ++at_;
      return make(Kind::assign, name, std::move(value));
    }
    parser.expect_end();
    ++at_;
    NodePtr body = statements();
    end("endset", line);
    return make(Kind::capture, name, std::move(body));
  }

  std::vector<Part> parts_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  bool in_generation_ = false;
};

}  // namespace

std::unique_ptr<Node> parse(std::string_view source) {
  return TemplateParser(source).parse();
}

}  // namespace qat::jinja
