// What the readers behind ModelSource::open share.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/source.h"

namespace qat {

std::unique_ptr<ModelSource> open_huggingface(const std::string& directory);
std::unique_ptr<ModelSource> open_gguf(const std::string& path);

/// Checks that `stored` holds exactly the tensors a configuration asks for, with their shapes.
/// Returns them in the order of expected_tensors.
std::vector<SourceTensor> match_tensors(const ModelConfig& config, const std::string& path,
                                        const std::vector<SourceTensor>& stored);

/// Refuses NaN and infinity, by tensor and element.
void check_finite(const std::string& path, const std::string& name, const float* values,
                  int64_t count);

/// "[49152, 576]".
std::string to_text(const Shape& shape);

}  // namespace qat
