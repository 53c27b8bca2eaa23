// Changes to the structure of JSON, where an input has some: a value replaced, a key removed,
// offsets put right behind it. Bytes changed at random mostly end in a document that does not
// parse.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace {

using Json = nlohmann::ordered_json;

class Mutation {
 public:
  explicit Mutation(unsigned seed) : random_(seed) {}

  /// "" where nothing in the text is JSON.
  std::string of(std::string_view text) {
    const auto [begin, end] = piece_of(text);
    std::string_view piece = text.substr(begin, end - begin);
    if (is_deep(piece)) return "";
    Json json = Json::parse(piece, nullptr, false);
    if (json.is_discarded()) {  // a header, with data behind it
      piece = piece.substr(0, piece.find('\n'));
      json = Json::parse(piece, nullptr, false);
    }
    if (!json.is_structured()) return "";
    for (uint32_t times = 1 + any(3); times > 0; --times) change(json);
    if (json.is_object() && any(3) > 0) follow_each_other(json);
    std::string out(text.substr(0, begin));
    out += json.dump(-1, ' ', false, Json::error_handler_t::replace);
    return out.append(text.substr(begin + piece.size()));
  }

 private:
  // Whether writing it again could overflow the stack.
  static bool is_deep(std::string_view text) {
    int depth = 0;
    for (const char c : text) {
      depth += (c == '[' || c == '{') - (c == ']' || c == '}');
      if (depth > 200) return true;
    }
    return false;
  }

  uint32_t any(size_t below) { return uint32_t(random_() % std::max<size_t>(below, 1)); }

  // Of a bundle one of its files; a line of JSON Lines; of an index what follows that word.
  std::pair<size_t, size_t> piece_of(std::string_view text) {
    if (text.starts_with("index")) return {5, text.size()};
    std::vector<std::pair<size_t, size_t>> files;
    for (size_t at = 0; at < text.size();) {
      const size_t line = std::min(text.find('\n', at), text.size() - 1) + 1;
      if (text.substr(at, 5) == "==== ") {
        if (!files.empty()) files.back().second = at;
        files.emplace_back(line, text.size());
      }
      at = line;
    }
    if (files.empty()) return {0, text.size()};
    return files[any(files.size())];
  }

  struct Place {
    Json* value;
    Json* parent;
    std::string key;
    size_t index;
  };
  static void collect(Json& json, std::vector<Place>& places) {
    if (places.size() > 5000) return;
    if (json.is_object())
      for (auto& [key, value] : json.items()) {
        places.push_back({&value, &json, key, 0});
        collect(value, places);
      }
    if (json.is_array())
      for (size_t i = 0; i < json.size(); ++i) {
        places.push_back({&json[i], &json, "", i});
        collect(json[i], places);
      }
  }

  Json interesting() {
    static const Json kValues = Json::array({nullptr,
                                             true,
                                             false,
                                             0,
                                             1,
                                             -1,
                                             2,
                                             3,
                                             4,
                                             7,
                                             8,
                                             15,
                                             16,
                                             32,
                                             64,
                                             127,
                                             128,
                                             255,
                                             256,
                                             65536,
                                             1 << 20,
                                             1 << 30,
                                             2147483647,
                                             2147483648u,
                                             4294967295u,
                                             4294967296,
                                             1e30,
                                             0.5,
                                             -0.0,
                                             INT64_MAX,
                                             INT64_MIN,
                                             UINT64_MAX,
                                             1099511627776,
                                             "",
                                             "a",
                                             "../x",
                                             "\n\x1b[31m",
                                             Json::array(),
                                             Json::object(),
                                             1e-45,
                                             1e308,
                                             "float32"});
    return kValues[any(kValues.size())];
  }

  void change(Json& json) {
    std::vector<Place> places;
    collect(json, places);
    if (places.empty()) return;
    Place& place = places[any(places.size())];
    Json& other = *places[any(places.size())].value;
    switch (any(8)) {
      case 0:
        *place.value = interesting();
        break;
      case 1:
        if (place.parent->is_object())
          place.parent->erase(place.key);
        else
          place.parent->erase(place.index);
        break;
      case 2:
        *place.value = Json(other);
        break;
      case 3:
        if (place.parent->is_array()) {
          place.parent->insert(place.parent->begin() + std::ptrdiff_t(place.index), Json(other));
        } else {
          const std::string key = places[any(places.size())].key + (any(2) ? "" : "x");
          const Json value = *place.value;
          place.parent->erase(place.key);
          (*place.parent)[key] = value;
        }
        break;
      case 4: {
        std::string text = place.value->is_string() ? place.value->get<std::string>() : place.key;
        const size_t before = text.size();
        text.resize(before + 8);
        text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text.data()), before, text.size()));
        *place.value = text;
        break;
      }
      default:
        near(*place.value);
    }
  }

  // Another number of the same kind where there is one.
  void near(Json& value) {
    if (value.is_number_float()) {
      value = value.get<double>() * (any(2) ? 2.0 : -0.5);
    } else if (value.is_number_unsigned()) {
      const auto number = value.get<uint64_t>();
      const uint64_t changed[] = {
          number + 1, number - 1, number * 2, number / 2, number ^ uint64_t(1) << any(64), any(40)};
      value = changed[any(6)];
    } else if (value.is_boolean()) {
      value = !value.get<bool>();
    } else {
      value = interesting();
    }
  }

  // Tensors of a safetensors header behind each other, each as long as its shape and type ask for.
  void follow_each_other(Json& header) {
    uint64_t offset = 0;
    for (auto& [name, tensor] : header.items()) {
      if (!tensor.is_object() || !tensor.contains("data_offsets") || !tensor.contains("shape"))
        continue;
      uint64_t bytes = 1;
      const std::string type = tensor.contains("dtype") ? tensor["dtype"].dump() : "";
      if (type.find("32") != std::string::npos) bytes = 4;
      if (type.find("16") != std::string::npos) bytes = 2;
      if (type.find("64") != std::string::npos) bytes = 8;
      for (const Json& size : tensor["shape"])
        bytes *= size.is_number_unsigned() ? size.get<uint64_t>() : 1;
      tensor["data_offsets"] = {offset, offset + bytes};
      offset += bytes;
    }
  }

  std::mt19937 random_;
};

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  if (seed % 4 != 0) {
    const std::string changed = Mutation(seed).of({reinterpret_cast<const char*>(data), size});
    if (!changed.empty() && changed.size() <= most) {
      std::memcpy(data, changed.data(), changed.size());
      return changed.size();
    }
  }
  return LLVMFuzzerMutate(data, size, most);
}
