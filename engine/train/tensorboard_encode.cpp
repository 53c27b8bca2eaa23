// Encoding of TensorBoard events; see the header.
#include "engine/train/tensorboard_encode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace qat::tensorboard {
namespace {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    table[i] = crc;
  }
  return table;
}

template <class T>
void append_fixed(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little, "protobuf and TFRecord are little");
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

/// Fields of one protobuf message.
class Message {
 public:
  Message& integer(int field, uint64_t value) {
    varint(uint64_t(field) << 3);
    varint(value);
    return *this;
  }
  Message& real(int field, double value) {
    varint(uint64_t(field) << 3 | 1);
    append_fixed(bytes_, value);
    return *this;
  }
  Message& real32(int field, float value) {
    varint(uint64_t(field) << 3 | 5);
    append_fixed(bytes_, value);
    return *this;
  }
  Message& bytes(int field, std::string_view value) {
    varint(uint64_t(field) << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& packed(int field, const std::vector<double>& values) {
    std::string all;
    for (double value : values) append_fixed(all, value);
    return bytes(field, all);
  }
  const std::string& text() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += char(value | 0x80);
    bytes_ += char(value);
  }
  std::string bytes_;
};

/// Summary.value = 1, holding tag = 1 and what `fill` adds.
std::string value_of(std::string_view tag, Message rest) {
  Message value;
  value.bytes(1, tag);
  return Message().bytes(1, value.text() + rest.text()).text();
}

std::vector<double> bucket_limits() {
  std::vector<double> positive;
  for (double limit = 1e-12; limit < 1e20; limit *= 1.1) positive.push_back(limit);
  positive.push_back(std::numeric_limits<double>::max());
  std::vector<double> limits;
  for (auto limit = positive.rbegin(); limit != positive.rend(); ++limit) limits.push_back(-*limit);
  limits.push_back(0);
  limits.insert(limits.end(), positive.begin(), positive.end());
  return limits;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~0u;
  for (char byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ uint8_t(byte)) & 0xff];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::string record(std::string_view bytes) {
  std::string out;
  append_fixed(out, uint64_t(bytes.size()));
  append_fixed(out, masked_crc32c(out));
  out += bytes;
  append_fixed(out, masked_crc32c(bytes));
  return out;
}

std::string scalar_value(std::string_view tag, float value) {
  return value_of(tag, Message().real32(2, value));
}

std::string text_value(std::string_view tag, std::string_view markdown) {
  constexpr uint64_t kString = 7;
  const Message dim = Message().integer(1, 1);
  const Message shape = Message().bytes(2, dim.text());
  const Message tensor = Message().integer(1, kString).bytes(2, shape.text()).bytes(8, markdown);
  const Message plugin = Message().bytes(1, "text");
  const Message metadata = Message().bytes(1, plugin.text());
  return value_of(tag, Message().bytes(8, tensor.text()).bytes(9, metadata.text()));
}

std::string histogram_value(std::string_view tag, std::span<const float> values) {
  const std::vector<double> limits = bucket_limits();
  std::vector<double> counts(limits.size());
  double low = std::numeric_limits<double>::max(), high = -low, number = 0, sum = 0, squares = 0;
  for (double value : values) {
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
    number += 1;
    sum += value;
    squares += value * value;
    // A bucket holds what lies below its limit and not below the one before.
    const auto limit = std::upper_bound(limits.begin(), limits.end(), value);
    counts[size_t(std::min<ptrdiff_t>(limit - limits.begin(), ptrdiff_t(limits.size()) - 1))] += 1;
  }
  if (number == 0) low = high = 0;
  // Of a run of empty buckets the last one alone says where the next begins.
  std::vector<double> kept_limits, kept_counts;
  for (size_t i = 0; i < limits.size(); ++i) {
    if (counts[i] == 0 && !(i + 1 < limits.size() && counts[i + 1] > 0)) continue;
    kept_limits.push_back(limits[i]);
    kept_counts.push_back(counts[i]);
  }
  if (kept_limits.empty()) {
    kept_limits.push_back(limits.back());
    kept_counts.push_back(0);
  }
  const Message histogram = Message()
                                .real(1, low)
                                .real(2, high)
                                .real(3, number)
                                .real(4, sum)
                                .real(5, squares)
                                .packed(6, kept_limits)
                                .packed(7, kept_counts);
  return value_of(tag, Message().bytes(5, histogram.text()));
}

std::string version_event(double wall_time) {
  return Message().real(1, wall_time).bytes(3, "brain.Event:2").text();
}

std::string start_event(double wall_time, int64_t step) {
  constexpr uint64_t kStart = 1;
  const Message session = Message().integer(1, kStart);
  return Message().real(1, wall_time).integer(2, uint64_t(step)).bytes(7, session.text()).text();
}

std::string summary_event(double wall_time, int64_t step, std::string_view values) {
  return Message().real(1, wall_time).integer(2, uint64_t(step)).bytes(5, values).text();
}

}  // namespace qat::tensorboard
