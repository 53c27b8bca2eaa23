// A save on its way, as saving at once and beside training both take it from stage to stage. A rank
// does its part of a stage alone; all agree before the next.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "engine/train/checkpoint.h"
#include "engine/train/checkpoint_files.h"
#include "engine/train/checkpoint_format.h"

namespace qat {

enum class SaveStage : uint8_t {
  prepare,  ///< rank 0 makes the directory aside
  write,    ///< each rank its file
  commit    ///< rank 0: manifest, rename, a look at all of it, pruning
};

/// What a rank tells the others of its part in a save.
struct CheckpointWriter::Part {
  int failure = 0;  ///< an Exit; 0: none so far
  bool not_finite = false;
  std::string message;
  checkpoint_format::FileEntry file;

  bool sound() const { return failure == 0 && !not_finite; }
  void failed(const Error& error) {
    failure = int(error.code());
    message = error.what();
  }
  std::string text() const {
    return nlohmann::json{{"failure", failure},
                          {"not_finite", not_finite},
                          {"message", message},
                          {"file", {file.name, file.bytes, file.checksum}}}
        .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  static Part from(const std::string& text) {
    const nlohmann::json told = nlohmann::json::parse(text);
    return {told.at("failure"),
            told.at("not_finite"),
            told.at("message"),
            {told.at("file").at(0), told.at("file").at(1), told.at("file").at(2)}};
  }
};

struct CheckpointWriter::Save {
  /// Throws Error(internal) for a state that JSON cannot hold.
  Save(const std::string& directory, const std::string& run_id, int64_t step,
       const nlohmann::json& state, std::vector<CheckpointTensor> tensors);

  void next_stage() { stage = SaveStage(uint8_t(stage) + 1); }

  const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  const int64_t step;
  const nlohmann::json state;
  const std::vector<CheckpointTensor> tensors;
  std::string aside;   ///< the directory that is written
  std::string failed;  ///< what is removed if the save fails
  SaveStage stage = SaveStage::prepare;
  Part mine;
  std::vector<Part> parts;  ///< of all ranks, as of the last agreement
  std::optional<checkpoint_files::Descriptor> marked;
  SaveResult result;
};

}  // namespace qat
