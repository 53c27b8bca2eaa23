// The bytes of TensorBoard event files: TFRecord framing with masked CRC-32C, and the few protobuf
// messages a training run needs, encoded by hand. Source: tensorflow/core/util/event.proto,
// tensorflow/core/framework/summary.proto, tensorflow/core/lib/io/record_writer.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace qat::tensorboard {

/// CRC-32C (Castagnoli), as iSCSI defines it.
uint32_t crc32c(std::string_view bytes);
/// The CRC rotated and offset, so that a CRC stored inside checked data does no harm.
uint32_t masked_crc32c(std::string_view bytes);
/// One TFRecord: length, its CRC, the bytes, their CRC.
std::string record(std::string_view bytes);

/// Values of a Summary; concatenate them.
std::string scalar_value(std::string_view tag, float value);
/// Markdown, shown on the Text page.
std::string text_value(std::string_view tag, std::string_view markdown);
/// Buckets grow by 10% from 1e-12 both ways, as TensorFlow's; NaN and infinities are left out.
std::string histogram_value(std::string_view tag, std::span<const float> values);

/// Events. wall_time in seconds since 1970.
std::string version_event(double wall_time);
/// What was shown of `step` and later, in this file or an earlier one, is forgotten.
std::string start_event(double wall_time, int64_t step);
std::string summary_event(double wall_time, int64_t step, std::string_view values);

}  // namespace qat::tensorboard
