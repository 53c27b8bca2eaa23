// What a model file or directory holds: tensors, grids, sizes, metadata, checksums.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace qat {

struct InspectedTensor {
  std::string name;
  Shape shape;         ///< of the matrix, also where its codes are packed
  std::string stored;  ///< "BF16", "Q4_0 (2)", "int4 per group of 32"
  uint64_t bytes = 0;  ///< with its scales and zero points

  double bits_per_weight() const {
    return shape.count() > 0 ? 8.0 * double(bytes) / double(shape.count()) : 0.0;
  }
};

struct Inspection {
  std::string kind;  ///< "GGUF file", "Hugging Face directory", ...
  std::vector<std::pair<std::string, std::string>> facts;  ///< in the order they are printed
  std::vector<InspectedTensor> tensors;
  nlohmann::ordered_json quantization;  ///< null where nothing is quantized
  nlohmann::ordered_json metadata = nlohmann::ordered_json::object();
  struct File {
    std::string path;
    uint64_t bytes;
    std::string xxh3_128;
  };
  std::vector<File> files;

  uint64_t bytes() const;      ///< of the tensors
  int64_t parameters() const;  ///< elements of the tensors
  double bits_per_weight() const;
};

/// Opens and reads everything: safetensors, GGUF, Hugging Face directories of every quant_method we
/// read, PEFT adapters, run directories, checkpoints. Refuses with one line that says what is wrong
/// with a damaged file, or what a foreign one seems to be.
Inspection inspect(const std::string& path);

/// The same as one JSON object.
nlohmann::ordered_json to_json(const Inspection& inspection, const std::string& path);

}  // namespace qat
