// Protocol buffer wire format (protobuf.dev/programming-guides/encoding): tag, then a varint, eight
// bytes, a length and bytes, or four bytes. Field numbers are those of sentencepiece_model.proto.
#include "models/tokenizer/sentencepiece_proto.h"

#include <cstring>

#include "engine/core/error.h"

namespace qat {
namespace {

struct WireField {
  uint32_t number = 0;
  uint64_t value = 0;      // varint, or the bits of a fixed-size value
  std::string_view bytes;  // length-delimited
};

class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  bool next(WireField& field) {
    if (at_ >= bytes_.size()) return false;
    const uint64_t tag = varint();
    field.number = uint32_t(tag >> 3);
    field.bytes = {};
    switch (tag & 7) {
      case 0:
        field.value = varint();
        return true;
      case 1:
        field.value = fixed(8);
        return true;
      case 2: {
        const uint64_t length = varint();
        if (length > bytes_.size() - at_) broken();
        field.bytes = bytes_.substr(at_, size_t(length));
        at_ += size_t(length);
        return true;
      }
      case 5:
        field.value = fixed(4);
        return true;
      default:
        broken();
    }
  }

 private:
  [[noreturn]] void broken() const {
    refuse("{}: is not a SentencePiece model (no protocol buffer at byte {} of a message)", name_,
           at_);
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ >= bytes_.size()) broken();
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= uint64_t(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    broken();
  }
  uint64_t fixed(size_t count) {
    if (count > bytes_.size() - at_) broken();
    uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + at_, count);
    at_ += count;
    return value;
  }

  std::string_view bytes_;
  const std::string& name_;
  size_t at_ = 0;
};

void read_piece(std::string_view bytes, const std::string& name, SentencePieceProto& proto) {
  std::string piece;
  float score = 0;
  uint64_t type = 1;
  WireReader reader(bytes, name);
  for (WireField field; reader.next(field);) {
    if (field.number == 1) piece = field.bytes;
    if (field.number == 2) {
      const auto bits = uint32_t(field.value);
      std::memcpy(&score, &bits, sizeof(score));
    }
    if (field.number == 3) type = field.value;
  }
  if (type < 1 || type > 6)
    refuse("{}: piece {} has the unknown type {}", name, proto.pieces.size(), type);
  proto.pieces.push_back(std::move(piece));
  proto.scores.push_back(double(score));
  proto.types.push_back(PieceType(type));
}

}  // namespace

SentencePieceProto read_sentencepiece_proto(std::string_view bytes, const std::string& name) {
  SentencePieceProto proto;
  WireReader reader(bytes, name);
  for (WireField field; reader.next(field);) {
    if (field.number == 1) read_piece(field.bytes, name, proto);
    if (field.number == 2) {  // TrainerSpec
      WireReader inner(field.bytes, name);
      for (WireField item; inner.next(item);) {
        if (item.number == 3) {
          if (item.value < 1 || item.value > 4)
            refuse("{}: has the unknown model type {}", name, item.value);
          proto.model = SentencePieceProto::Model(item.value);
        }
        if (item.number == 24) proto.space_at_word_end = item.value != 0;
        if (item.number == 35) proto.byte_fallback = item.value != 0;
      }
    }
    if (field.number == 3) {  // NormalizerSpec
      WireReader inner(field.bytes, name);
      for (WireField item; inner.next(item);) {
        if (item.number == 2) proto.has_character_map = !item.bytes.empty();
        if (item.number == 3) proto.adds_space_prefix = item.value != 0;
        if (item.number == 4) proto.removes_extra_spaces = item.value != 0;
        if (item.number == 5) proto.escapes_spaces = item.value != 0;
      }
    }
  }
  return proto;
}

}  // namespace qat
