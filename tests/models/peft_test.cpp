// PEFT directories: read as peft writes them, written so that they read back, refused by name.
#include "models/export/peft.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "engine/core/error.h"
#include "models/adapter.h"
#include "tests/models/golden.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

class PeftDirectory : public testing::Test {
 protected:
  PeftDirectory()
      : config_(ModelSource::open(golden::path("llama"))->config()),
        folder_(fs::temp_directory_path() /
                ("peft_test_" +
                 std::string(testing::UnitTest::GetInstance()->current_test_info()->name()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~PeftDirectory() override { fs::remove_all(folder_); }

  std::string copy_of(const char* run) {
    const fs::path to = folder_ / run;
    fs::copy(golden::path(std::string("adapters/") + run), to);
    return to.string();
  }

  void edit(const std::string& directory, const std::function<void(nlohmann::json&)>& change) {
    const std::string file = directory + "/adapter_config.json";
    nlohmann::json json;
    std::ifstream(file) >> json;
    change(json);
    std::ofstream(file) << json.dump();
  }

  std::string refusal(const std::string& directory) {
    try {
      read_peft_plan(directory, config_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::refused);
      return error.what();
    }
    return "accepted";
  }

  ModelConfig config_;
  fs::path folder_;
};

TEST_F(PeftDirectory, ReadsWhatPeftWrites) {
  const auto dora = read_peft_plan(golden::path("adapters/dora"), config_);
  EXPECT_EQ(dora.size(), 14u);
  const LinearAdapter& first = dora.at("model.layers.0.mlp.up_proj");
  EXPECT_EQ(first.kind, AdapterKind::dora);
  EXPECT_EQ(first.rank, 4);
  EXPECT_EQ(first.scale(), 2.0f);
  const auto rslora = read_peft_plan(golden::path("adapters/rslora"), config_);
  EXPECT_EQ(rslora.size(), 6u);
  EXPECT_EQ(rslora.at("model.layers.1.self_attn.q_proj").scale(), 1.5f);
}

TEST_F(PeftDirectory, WhatIsWrittenReadsBack) {
  for (const char* run : {"lora", "rslora", "dora"}) {
    AdapterPlan plan;
    plan.linears = read_peft_plan(golden::path(std::string("adapters/") + run), config_);
    plan.linears.erase("model.layers.1.self_attn.q_proj");
    if (plan.linears.contains("model.layers.0.mlp.up_proj"))
      plan.linears["model.layers.0.mlp.up_proj"].alpha = 5;
    Store store, again;
    Stream stream;
    load_peft(golden::path(std::string("adapters/") + run), plan, config_, store, cpu_kernels(),
              stream);
    const std::string out = (folder_ / run).string();
    for (int i = 0; i < 2; ++i) export_peft(out, plan, config_, "llama", store);
    const auto linears = read_peft_plan(out, config_);
    ASSERT_EQ(linears.size(), plan.linears.size());
    for (const auto& [path, adapter] : linears)
      EXPECT_EQ(adapter.scale(), plan.linears.at(path).scale()) << path;
    load_peft(out, plan, config_, again, cpu_kernels(), stream);
    for (const Store::Entry& entry : store.entries())
      EXPECT_EQ(std::memcmp(again.get(entry.name).data, entry.view.data, entry.view.bytes()), 0)
          << entry.name;
    // Not every q_proj is meant any more, so they are named one by one.
    const nlohmann::json json = nlohmann::json::parse(std::ifstream(out + "/adapter_config.json"));
    const auto targets = json.at("target_modules").get<std::vector<std::string>>();
    EXPECT_NE(std::find(targets.begin(), targets.end(), "model.layers.0.self_attn.q_proj"),
              targets.end());
    EXPECT_NE(std::find(targets.begin(), targets.end(), "down_proj"), targets.end());
  }
}

TEST_F(PeftDirectory, RefusesWhatItDoesNotKnow) {
  EXPECT_NE(refusal(folder_.string()).find("expected a PEFT directory"), std::string::npos);
  const std::string lora = copy_of("lora");
  const auto refuses = [&](const char* key, const nlohmann::json& value) {
    edit(lora, [&](nlohmann::json& json) { json[key] = value; });
    const std::string message = refusal(lora);
    EXPECT_NE(message.find(key), std::string::npos) << message;
    fs::remove_all(lora);
    copy_of("lora");
  };
  refuses("peft_type", "LOHA");
  refuses("bias", "all");
  refuses("fan_in_fan_out", true);
  refuses("modules_to_save", {"lm_head"});
  refuses("r", "eight");
  refuses("lora_alpha", -1);
  EXPECT_EQ(refusal(lora), "accepted");
  edit(lora, [](nlohmann::json& json) { json["use_dora"] = true; });
  EXPECT_NE(refusal(lora).find("lora_magnitude_vector is missing"), std::string::npos);
  config_.layers = 1;
  EXPECT_NE(refusal(golden::path("adapters/lora")).find("belongs to no linear"), std::string::npos);
}

}  // namespace
}  // namespace qat
