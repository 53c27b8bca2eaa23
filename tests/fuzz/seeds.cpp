// Small, whole inputs, written by the writers of the program where it has some.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "engine/core/error.h"
#include "engine/data/token_cache.h"
#include "engine/io/gguf_write.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "engine/train/checkpoint.h"
#include "models/export/compressed_tensors.h"
#include "models/export/gguf_metadata.h"
#include "models/export/huggingface.h"
#include "models/export/packed.h"
#include "models/families.h"
#include "models/gguf_names.h"
#include "models/source.h"
#include "models/tokenizer/gguf_keys.h"
#include "models/tokenizer/tokenizer.h"
#include "recipes/run/recipe/recipe.h"
#include "tests/export/small_model.h"
#include "tests/faults/step_tensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/targets.h"

namespace qat::fuzz {
namespace {

namespace fs = std::filesystem;

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("run from the repository's root: no " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

// The seeds of one target.
class Seeds {
 public:
  Seeds(const std::string& root, const char* target) : folder_(fs::path(root) / target) {
    fs::create_directories(folder_);
  }
  void add(const std::string& name, std::string_view bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }

 private:
  fs::path folder_;
};

// The files of a directory that was written, as the target `directory` takes them.
std::string bundle_of(const fs::path& directory) {
  Bundle bundle;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string bytes = bytes_of(entry.path());
    const bool tensors = entry.path().extension() == ".safetensors";
    bundle[entry.path().filename().string()] = tensors ? header_and_data(bytes) : bytes;
  }
  return to_text(bundle);
}

void zeros(const SafetensorsEntry& entry, const ByteSink& sink) {
  const std::vector<char> bytes(size_t(entry.shape.count()) * size_of(entry.type));
  sink(bytes.data(), bytes.size());
}

void add_safetensors(const std::string& root) {
  const Seeds seeds(root, "safetensors");
  const Folder scratch;
  const std::vector<SafetensorsEntry> entries = {{"b.weight", StoredType::bf16, {3}},
                                                 {"a", StoredType::f32, {2, 2}},
                                                 {"c", StoredType::i8, {5}},
                                                 {"h", StoredType::f16, {}},
                                                 {"i", StoredType::i64, {2}}};
  write_safetensors(scratch.path() + "/all", entries, zeros);
  const std::string all = bytes_of(scratch.path() + "/all");
  seeds.add("file", "file" + all);
  seeds.add("header", header_and_data(all));
  write_safetensors_directory(scratch.path(), {entries.begin(), entries.begin() + 3}, 22, zeros);
  seeds.add("index", "index" + bytes_of(scratch.path() + "/model.safetensors.index.json"));
}

ModelConfig tiny_config() {
  ModelConfig c;
  c.hidden = 32, c.ffn = 64, c.layers = 1, c.heads = 2, c.kv_heads = 2, c.head_dim = 16;
  c.vocab = 8, c.max_positions = 64;
  return c;
}

// A golden tokenizer without most of its vocabulary.
std::string small_tokenizer(const std::string& name) {
  Json json = read_json_file("tests/tokenizer/golden/" + name + "/tokenizer.json");
  Json kept = Json::object();
  for (const auto& [piece, id] : json["model"]["vocab"].items())
    if (id.get<int>() < 280) kept[piece] = id;
  Json merges = Json::array();
  for (const Json& merge : json["model"]["merges"]) {
    std::string left, right;
    if (merge.is_array()) {
      left = merge[0], right = merge[1];
    } else {
      const auto text = merge.get<std::string>();
      left = text.substr(0, text.find(' ')), right = text.substr(text.find(' ') + 1);
    }
    if (kept.contains(left) && kept.contains(right) && kept.contains(left + right))
      merges.push_back(merge);
  }
  Json added = Json::array();
  for (const Json& token : json["added_tokens"])
    if (kept.contains(token["content"].get<std::string>())) added.push_back(token);
  json["added_tokens"] = added;
  json["model"]["vocab"] = kept;
  json["model"]["merges"] = merges;
  return json.dump();
}

constexpr const char* kTokenizers[] = {"gemma",   "gpt2",  "llama2", "llama3",
                                       "mistral", "o200k", "qwen2",  "smollm"};

// Field `number` of a protocol buffer: bytes behind their length, or a number.
std::string field(int number, std::string_view bytes) {
  return std::string{char((number << 3) | 2), char(bytes.size())}.append(bytes);
}
std::string field(int number, int value) {
  return std::string{char(number << 3), char(value)};
}

std::string sentencepiece_model() {
  std::string model;
  int rank = 0;
  const auto piece = [&](std::string_view text, int type) {
    const float score = type == 1 ? float(--rank) : 0.0f;
    std::string bits(5, char((2 << 3) | 5));
    std::memcpy(bits.data() + 1, &score, 4);
    model += field(1, field(1, text) + bits + field(3, type));
  };
  piece("<unk>", 2), piece("<s>", 3), piece("</s>", 3);
  for (int byte = 0; byte < 256; ++byte) piece(fmt::format("<0x{:02X}>", byte), 6);
  for (const char* text : {"\xE2\x96\x81", "o", "l", "e", "H", "lo", "ll", "llo", "\xE2\x96\x81H"})
    piece(text, 1);
  model += field(3, field(3, 1) + field(4, 0) + field(5, 1));  // no extra spaces removed
  // A BPE model with byte fallback (field 35 has a tag of two bytes). The last number, that of its
  // pieces, is the line feed that a file of a bundle ends with.
  return model +
         field(2, field(3, 2) + std::string{char(((35 << 3) & 0x7F) | 0x80), (35 << 3) >> 7, 1} +
                      field(4, '\n'));
}

void add_tokenizers(const std::string& root) {
  const Seeds seeds(root, "tokenizer");
  for (const char* name : kTokenizers) seeds.add(name, small_tokenizer(name));
  const std::string config =
      R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": true,)"
      R"( "chat_template": [{"name": "default", "template": "{{ messages }}"}]})";
  seeds.add("sentencepiece", to_text({{"tokenizer.model", sentencepiece_model()},
                                      {"tokenizer_config.json", config},
                                      {"generation_config.json", R"({"eos_token_id": [2, 1]})"}}));
  const Seeds chats(root, "chat");
  std::set<std::string> seen;
  const Json golden = read_json_file("tests/tokenizer/golden/chat.json");
  for (const Json& chat : golden["cases"])
    if (const auto text = chat["template"].get<std::string>(); seen.insert(text).second)
      chats.add(fmt::format("{:02}", seen.size()), text);
}

void write_model(const std::string& path, const ModelConfig& config,
                 const std::vector<GgufType>& types, const Tokenizer* tokenizer) {
  std::vector<GgufEntry> entries;
  size_t next = 0;
  for (const SourceTensor& tensor : expected_tensors(config)) {
    const bool matrix = tensor.shape.rank() == 2;
    GgufType type = matrix ? types[next++ % types.size()] : GgufType::f32;
    if (tensor.shape.cols() % gguf_block(uint32_t(type))->elements != 0) type = GgufType::f16;
    entries.push_back({gguf_name(tensor.name), type, tensor.shape});
  }
  std::vector<GgufKey> keys = model_keys(config, "seed", types.front());
  if (tokenizer)
    for (GgufKey& key : tokenizer_keys(tokenizer, config)) keys.push_back(std::move(key));
  write_gguf(path, keys, entries, [](const GgufEntry& entry, const GgufSink& sink) {
    const std::vector<char> bytes(entry.bytes());
    sink(bytes.data(), bytes.size());
  });
}

void add_gguf(const std::string& root) {
  const Seeds seeds(root, "gguf");
  const Folder scratch;
  const std::string path = scratch.path() + "/model.gguf";
  const auto add = [&](const char* name) {
    seeds.add(name, bytes_of(path));
    fs::remove(path);
  };
  write_model(path, tiny_config(),
              {GgufType::q8_0, GgufType::q4_0, GgufType::q4_1, GgufType::q5_0, GgufType::f16,
               GgufType::bf16},
              nullptr);
  add("blocks");
  ModelConfig wide = tiny_config();
  wide.hidden = 256, wide.ffn = 16, wide.heads = 1, wide.kv_heads = 1, wide.vocab = 2;
  write_model(path, wide, {GgufType::q4_k, GgufType::q6_k}, nullptr);
  add("super-blocks");
  for (const char* name : {"smollm", "llama2"}) {
    scratch.write("tokenizer.json", small_tokenizer(name));
    const auto tokenizer = Tokenizer::open(scratch.path());
    ModelConfig config = tiny_config();
    config.vocab = tokenizer->vocab_size();
    write_model(path, config, {GgufType::q4_0}, tokenizer.get());
    add(name);
  }
  write_gguf(path,
             {{"general.architecture", std::string("llama")},
              {"numbers", std::vector<int32_t>{1, 2}},
              {"reals", std::vector<float>{1, 2}},
              {"texts", std::vector<std::string>{"a", "b"}},
              {"flag", true}},
             {{"a", GgufType::f32, {2, 3}}, {"b", GgufType::q8_0, {1, 32}}},
             [](const GgufEntry& entry, const GgufSink& sink) {
               const std::vector<char> bytes(entry.bytes());
               sink(bytes.data(), bytes.size());
             });
  add("keys");
}

void add_checkpoints(const std::string& root) {
  const Seeds seeds(root, "checkpoint");
  const Folder scratch;
  CheckpointOptions options;
  options.run_id = "run1";
  options.program = "test";
  CheckpointWriter writer(scratch.path() + "/checkpoints", options);
  const StepTensors tensors(3, 10);
  if (!writer.save(3, step_state(3), tensors.list()).committed())
    throw std::runtime_error("cannot write a checkpoint");
  const std::string step = scratch.path() + "/checkpoints/step-3";
  const std::string rank = bytes_of(step + "/rank-0000-of-0001.bin");
  seeds.add("manifest", bytes_of(step + "/manifest.json"));
  seeds.add("rank", rank);
  // The header alone, and one for each of two ranks of which each holds half of the rows.
  uint64_t header_bytes;
  std::memcpy(&header_bytes, rank.data() + 16, sizeof header_bytes);
  Json header = Json::parse(rank.substr(32, header_bytes));
  seeds.add("header", Json::array({header}).dump());
  Json ranks = Json::array();
  header["world"] = 2;
  header["tensors"].erase(header["tensors"].begin() + 1, header["tensors"].end());
  for (int number = 0; number < 2; ++number) {
    header["rank"] = number;
    header["tensors"][0]["all_rows"] = 20;
    header["tensors"][0]["first_row"] = 10 * number;
    ranks.push_back(header);
  }
  seeds.add("ranks", ranks.dump());
}

ExportModel tiny_model(const LinearQuant& quant) {
  ExportModel model = test::small_model(quant, tiny_config());
  if (quant.weight && quant.weight->scale_type == ScaleType::f16)  // scales that F16 holds exactly
    model.codes = [](const ExportTensor& tensor) {
      QuantizedMatrix m = test::random_matrix(tensor.name, tensor.shape, *tensor.quant.weight);
      for (size_t i = 0; i < m.scales.size(); ++i) m.scales[i] = float(i % 50 + 1) / 1024.0f;
      return m;
    };
  for (ExportTensor& tensor : model.tensors)
    if (tensor.quant.static_activation) tensor.input_scale = 0.0125f, tensor.input_zero = 3.0f;
  return model;
}

void add_directories(const std::string& root) {
  const Seeds seeds(root, "directory");
  const Folder scratch;
  const auto add = [&](const char* name, const auto& write) {
    const std::string directory = scratch.path() + "/" + name;
    write(directory);
    seeds.add(name, bundle_of(directory));
  };
  add("hf", [](const std::string& to) {
    export_huggingface(to, tiny_model({}), {}, {.type = StoredType::bf16});
  });
  add("sharded", [](const std::string& to) {
    // Two shards, each below the size of the whole.
    HuggingFaceOptions options{.type = StoredType::bf16, .max_shard_bytes = 15'000};
    export_huggingface(to, tiny_model({}), {}, options);
  });
  const QuantSpec int8_row = {.bits = 8, .per = Per::row};
  const QuantSpec int4 = {.bits = 4,
                          .per = Per::group,
                          .group = 32,
                          .range = Range::full,
                          .rule = ScaleRule::no_clip,
                          .scale_type = ScaleType::f16};
  QuantSpec int4_zero = int4;
  int4_zero.range = Range::asymmetric;
  int4_zero.rule = ScaleRule::min_max;
  const QuantSpec fixed = {
      .bits = 8, .per = Per::tensor, .range = Range::asymmetric, .rule = ScaleRule::min_max};
  const std::pair<const char*, LinearQuant> compressed[] = {
      {"int8", {.weight = int8_row, .activation = int8_row}},
      {"int8-static", {.weight = int8_row, .activation = fixed, .static_activation = true}},
      {"int4", {.weight = int4, .activation = {}}},
      {"int4-zero", {.weight = int4_zero, .activation = int8_row}}};
  for (const auto& pair : compressed)
    add(pair.first,
        [&](const std::string& to) { export_compressed_tensors(to, tiny_model(pair.second), {}); });
  for (const auto& [name, spec] : {std::pair{"gptq", int4}, std::pair{"gptq-zero", int4_zero}})
    add(name, [&, weight = spec](const std::string& to) {
      export_gptq(to, tiny_model({.weight = weight, .activation = {}}), {});
    });
  add("awq", [&](const std::string& to) {
    export_awq(to, tiny_model({.weight = int4_zero, .activation = {}}), {});
  });
  // An adapter beside the configuration of its base.
  Json header = Json::object();
  uint64_t offset = 0;
  for (const auto& [part, rows, columns] :
       {std::tuple{"lora_A", 2, 32}, std::tuple{"lora_B", 32, 2}}) {
    const uint64_t end = offset + uint64_t(rows) * columns * 4;
    header[fmt::format("base_model.model.model.layers.0.self_attn.q_proj.{}.weight", part)] = {
        {"dtype", "F32"}, {"shape", {rows, columns}}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  const Json adapter = {{"peft_type", "LORA"},
                        {"r", 2},
                        {"lora_alpha", 4},
                        {"target_modules", {"q_proj"}},
                        {"use_dora", false},
                        {"use_rslora", true},
                        {"alpha_pattern", {{"q_proj", 3}}}};
  seeds.add("adapter", to_text({{"config.json", config_to_huggingface(tiny_config())},
                                {"adapter_config.json", adapter.dump()},
                                {"adapter_model.safetensors", header.dump()}}));
}

void add_tokens(const std::string& root) {
  const Seeds seeds(root, "tokens");
  const Folder scratch;
  for (const auto& [name, vocabulary, mask] :
       {std::tuple{"u16", 300, LossMask::present}, std::tuple{"u32", 70000, LossMask::absent}}) {
    const std::string path = scratch.path() + "/" + name;
    TokenWriter writer(path, vocabulary, mask);
    const std::vector<int32_t> ids = {1, 2, 299};
    const std::vector<uint8_t> counted = {0, 1, 1};
    for (int i = 0; i < 2; ++i)
      writer.add(ids, mask == LossMask::present ? counted : std::vector<uint8_t>(), "seed");
    writer.commit({});
    seeds.add(name, bytes_of(path));
  }
  seeds.add("text", "{\"text\": \"a\"}\n\n{\"text\": \"caf\\u00e9\"}\n");
  seeds.add("pairs", "{\"prompt\": \"a\", \"completion\": \"b\", \"id\": [1, null]}\n");
  seeds.add("chats",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, "
            "{\"role\": \"assistant\", \"content\": \"b\"}]}\n");
}

void add_texts(const std::string& root) {
  const Seeds json(root, "json");
  json.add("config", config_to_huggingface(tiny_config()));
  json.add("values",
           R"({"a": [1, -2, 2.5e-3, true, null, "x\u00e9\ud83d\ude00\n"], "b": {"": []}})");
  const Seeds recipes(root, "recipe");
  for (const auto& entry : fs::directory_iterator("recipes"))
    if (entry.path().extension() == ".yaml") {
      const std::string text = bytes_of(entry.path());
      recipes.add(entry.path().stem(), text);
    }
  recipes.add("every-key", to_yaml(recipe::load_recipe("recipes/quickstart.yaml")));
}

}  // namespace

void write_seeds(const std::string& folder) {
  add_texts(folder);
  add_safetensors(folder);
  add_tokenizers(folder);
  add_gguf(folder);
  add_checkpoints(folder);
  add_directories(folder);
  add_tokens(folder);
}

}  // namespace qat::fuzz
