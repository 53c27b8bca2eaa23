// Reading: the header is walked value by value (never a tree, a header may have 100 MB), then the
// tensors must tile the data without hole or overlap.
#include "engine/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "engine/core/error.h"
#include "engine/io/json.h"
#include "engine/io/mapped_file.h"
#include "engine/io/printable.h"
#include "engine/io/safetensors_layout.h"
#include "kernels/float_types.h"

static_assert(std::endian::native == std::endian::little);

namespace qat {
namespace {

constexpr size_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr size_t kMaxTensors = 200'000;

struct TypeRow {
  StoredType type;
  const char* name;
  size_t bytes;
};
constexpr std::array<TypeRow, 8> kTypes = {{{StoredType::f32, "F32", 4},
                                            {StoredType::f16, "F16", 2},
                                            {StoredType::bf16, "BF16", 2},
                                            {StoredType::f8_e4m3, "F8_E4M3", 1},
                                            {StoredType::i64, "I64", 8},
                                            {StoredType::i32, "I32", 4},
                                            {StoredType::i8, "I8", 1},
                                            {StoredType::u8, "U8", 1}}};

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {...}}
class HeaderVisitor : public JsonVisitor {
 public:
  HeaderVisitor(const std::string& path, std::vector<SafetensorsTensor>& tensors,
                std::map<std::string, std::string>& metadata)
      : path_(path), tensors_(tensors), metadata_(metadata) {}

  void begin_object(size_t offset) override {
    if (depth_ == 2) unexpected("an object", offset);
    if (++depth_ == 2) {
      in_metadata_ = key_ == "__metadata__";
      if (in_metadata_) return;
      if (tensors_.size() >= kMaxTensors)
        refuse("{}: more than {} tensors in the header", path_, kMaxTensors);
      tensors_.emplace_back();
      tensors_.back().name = key_;
      seen_ = 0;
    }
  }
  void end_object(size_t offset) override {
    if (--depth_ != 1 || in_metadata_) return;
    if (seen_ != (kDtype | kShape | kOffsets))
      refuse("{}: tensor {} has no {} (byte {})", path_, name(),
             !(seen_ & kDtype)   ? "dtype"
             : !(seen_ & kShape) ? "shape"
                                 : "data_offsets",
             8 + offset);
  }
  void begin_array(size_t offset) override {
    if (depth_ != 2 || in_metadata_ || in_array_ || (field_ != kShape && field_ != kOffsets))
      unexpected("an array", offset);
    in_array_ = true;
    items_.clear();
  }
  void end_array(size_t offset) override {
    in_array_ = false;
    SafetensorsTensor& tensor = tensors_.back();
    if (field_ == kShape) {
      tensor.shape = shape_of(offset);
    } else {
      if (items_.size() != 2)
        refuse("{}: tensor {}: data_offsets has {} numbers, expected 2 (byte {})", path_, name(),
               items_.size(), 8 + offset);
      tensor.offset = items_[0];
      tensor.bytes = items_[1];  // the end, until the tiling is checked
    }
  }
  void key(std::string& text, size_t offset) override {
    if (depth_ == 1) {
      if (text.empty()) refuse("{}: a tensor without a name (byte {})", path_, 8 + offset);
      if (text == "__metadata__" && std::exchange(had_metadata_, true))
        refuse("{}: __metadata__ occurs twice (byte {})", path_, 8 + offset);
      key_ = text;
      return;
    }
    key_in_ = text;
    if (in_metadata_) return;
    field_ = text == "dtype"          ? kDtype
             : text == "shape"        ? kShape
             : text == "data_offsets" ? kOffsets
                                      : kNone;
    if (field_ == kNone)
      refuse("{}: tensor {} has the unknown key \"{}\" (byte {})", path_, name(), printable(text),
             8 + offset);
    if (seen_ & field_)
      refuse("{}: tensor {} has \"{}\" twice (byte {})", path_, name(), text, 8 + offset);
    seen_ |= field_;
  }
  void string(std::string& value, size_t offset) override {
    if (depth_ != 2 || in_array_) unexpected("a string", offset);
    if (in_metadata_) {
      if (!metadata_.emplace(key_in_, value).second)
        refuse("{}: __metadata__ has \"{}\" twice (byte {})", path_, printable(key_in_),
               8 + offset);
      return;
    }
    if (field_ != kDtype) unexpected("a string", offset);
    const auto row = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const TypeRow& r) { return value == r.name; });
    if (row == kTypes.end())
      refuse("{}: tensor {} has dtype \"{}\"; F32 F16 BF16 F8_E4M3 I64 I32 I8 U8 are read", path_,
             name(), printable(value));
    tensors_.back().type = row->type;
  }
  void unsigned_integer(uint64_t value, size_t offset) override {
    if (!in_array_) unexpected("a number", offset);
    if (items_.size() >= 8) refuse("{}: tensor {}: too many numbers in a list", path_, name());
    items_.push_back(value);
  }
  void integer(int64_t value, size_t offset) override {
    if (value < 0)
      refuse("{}: tensor {}: {} in {} is negative (byte {})", path_, name(), value, field(),
             8 + offset);
    unsigned_integer(uint64_t(value), offset);
  }
  void real(double value, size_t offset) override {
    if (!in_array_) unexpected("a number", offset);
    refuse("{}: tensor {}: {} in {} is not an integer (byte {})", path_, name(), value, field(),
           8 + offset);
  }
  void boolean(bool, size_t offset) override { unexpected("a boolean", offset); }
  void null(size_t offset) override { unexpected("null", offset); }

 private:
  enum Field : unsigned { kNone = 0, kDtype = 1, kShape = 2, kOffsets = 4 };

  std::string name() const { return printable(key_); }
  const char* field() const { return field_ == kShape ? "shape" : "data_offsets"; }
  [[noreturn]] void unexpected(const char* what, size_t offset) const {
    if (depth_ == 0) refuse("{}: the header is not a JSON object", path_);
    if (depth_ == 2 && in_metadata_)
      refuse("{}: __metadata__ may hold strings only, got {} (byte {})", path_, what, 8 + offset);
    refuse("{}: {} under \"{}\" where the header has no place for it (byte {})", path_, what,
           name(), 8 + offset);
  }
  Shape shape_of(size_t offset) const {
    if (items_.size() > 4)
      refuse("{}: tensor {} has {} dimensions, at most 4 are read (byte {})", path_, name(),
             items_.size(), 8 + offset);
    uint64_t count = 1;
    for (uint64_t size : items_) {
      if (size == 0) refuse("{}: tensor {} has a dimension of 0", path_, name());
      if (size > (uint64_t(1) << 40) || __builtin_mul_overflow(count, size, &count) ||
          count > (uint64_t(1) << 48))
        refuse("{}: tensor {} has an impossible shape ({} in dimension list, byte {})", path_,
               name(), size, 8 + offset);
    }
    const auto at = [&](size_t i) { return int64_t(items_[i]); };
    switch (items_.size()) {
      case 0:
        return {};
      case 1:
        return {at(0)};
      case 2:
        return {at(0), at(1)};
      case 3:
        return {at(0), at(1), at(2)};
      default:
        return {at(0), at(1), at(2), at(3)};
    }
  }

  const std::string& path_;
  std::vector<SafetensorsTensor>& tensors_;
  std::map<std::string, std::string>& metadata_;
  std::string key_, key_in_;
  std::vector<uint64_t> items_;
  int depth_ = 0;
  bool in_metadata_ = false, had_metadata_ = false, in_array_ = false;
  unsigned seen_ = 0;
  unsigned field_ = kNone;
};

// Offsets become absolute, ends become sizes; the data must be tiled exactly.
void check_tiling(const std::string& path, std::vector<SafetensorsTensor>& tensors,
                  uint64_t data_begin, uint64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  uint64_t expected = 0;
  for (SafetensorsTensor& tensor : tensors) {
    const std::string name = printable(tensor.name);
    const uint64_t begin = tensor.offset, end = tensor.bytes;
    if (end < begin)
      refuse("{}: tensor {}: data_offsets [{}, {}] are reversed", path, name, begin, end);
    const uint64_t wanted = uint64_t(tensor.shape.count()) * size_of(tensor.type);
    if (end - begin != wanted)
      refuse("{}: tensor {}: data_offsets span {} bytes, its shape and dtype {} need {}", path,
             name, end - begin, name_of(tensor.type), wanted);
    if (end > data_bytes)
      refuse("{}: tensor {} ends at byte {} of the data, but the file has {}; is it truncated?",
             path, name, end, data_bytes);
    if (begin != expected)
      refuse("{}: tensor {} begins at {} of the data, {} {}", path, name, begin,
             begin < expected ? "overlapping the tensor before it, which ends at"
                              : "leaving a hole after",
             expected);
    expected = end;
    tensor.offset = data_begin + begin;
    tensor.bytes = wanted;
  }
  if (expected != data_bytes)
    refuse("{}: {} bytes follow the last tensor (data has {}, tensors end at {})", path,
           data_bytes - expected, data_bytes, expected);
}

void sort_by_name(const std::string& path, std::vector<SafetensorsTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors.size(); ++i)
    if (tensors[i].name == tensors[i - 1].name)
      refuse("{}: tensor {} occurs twice", path, printable(tensors[i].name));
}

void read_header(const MappedFile& file, std::vector<SafetensorsTensor>& tensors,
                 std::map<std::string, std::string>& metadata) {
  const std::string& path = file.path();
  if (file.size() < 10)
    refuse("{}: {} bytes, too short for a safetensors file; is it truncated?", path, file.size());
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  if (length > kMaxHeader)
    refuse("{}: header of {} bytes (byte 0), at most {} are read; not a safetensors file?", path,
           length, kMaxHeader);
  if (length > file.size() - 8)
    refuse("{}: header of {} bytes, but only {} follow; is the file truncated?", path, length,
           file.size() - 8);
  if (length < 2) refuse("{}: header of {} bytes, at least 2 are needed", path, length);
  const std::string_view header = file.text(8, size_t(length));
  if (header[0] != '{') refuse("{}: the header does not begin with '{{' (byte 8)", path);
  HeaderVisitor visitor(path, tensors, metadata);
  visit_json(header, path + " (header, bytes from 8)", visitor,
             {.bytes = kMaxHeader, .depth = 4, .values = 20 * kMaxTensors});
  check_tiling(path, tensors, 8 + length, file.size() - 8 - length);
  sort_by_name(path, tensors);
}

}  // namespace

size_t size_of(StoredType type) {
  return kTypes[size_t(type)].bytes;
}

const char* name_of(StoredType type) {
  return kTypes[size_t(type)].name;
}

struct Safetensors::Impl {
  std::vector<MappedFile> mapped;
  std::vector<std::string> files;
  std::vector<SafetensorsTensor> tensors;
  std::map<std::string, std::string> metadata;

  void add(const std::string& path) {
    mapped.push_back(MappedFile::open(path));
    files.push_back(path);
    std::vector<SafetensorsTensor> more;
    std::map<std::string, std::string> notes;
    read_header(mapped.back(), more, notes);
    if (mapped.size() == 1) metadata = std::move(notes);
    for (SafetensorsTensor& tensor : more) {
      tensor.file = uint32_t(mapped.size() - 1);
      tensors.push_back(std::move(tensor));
    }
  }
};

Safetensors::Safetensors() : impl_(std::make_unique<Impl>()) {}
Safetensors::~Safetensors() = default;

std::shared_ptr<const Safetensors> Safetensors::open_file(const std::string& path) {
  std::shared_ptr<Safetensors> result(new Safetensors);
  result->impl_->add(path);
  return result;
}

std::shared_ptr<const Safetensors> Safetensors::open_directory(const std::string& directory) {
  const SafetensorsLayout layout = find_safetensors(directory);
  std::shared_ptr<Safetensors> result(new Safetensors);
  Impl& impl = *result->impl_;
  for (const std::string& file : layout.files) impl.add(directory + "/" + file);
  if (layout.index.empty()) return result;

  const std::string& index = layout.index;
  for (const SafetensorsTensor& tensor : impl.tensors) {
    const auto entry = layout.weight_map.find(tensor.name);
    const std::string& shard = layout.files[tensor.file];
    if (entry == layout.weight_map.end())
      refuse("{}: tensor {} is in {} but not in the weight_map", index, printable(tensor.name),
             shard);
    if (entry->second != shard)
      refuse("{}: tensor {} is in {}, but the weight_map says {}", index, printable(tensor.name),
             shard, entry->second);
  }
  sort_by_name(index, impl.tensors);
  if (impl.tensors.size() != layout.weight_map.size())
    for (const auto& [name, shard] : layout.weight_map)
      if (!result->find(name))
        refuse("{}: tensor {} is not in {}, where the weight_map says it is", index,
               printable(name), shard);
  uint64_t total = 0;
  for (const SafetensorsTensor& tensor : impl.tensors) total += tensor.bytes;
  if (layout.total_size && *layout.total_size != total)
    refuse("{}: metadata.total_size is {}, the shards hold {} bytes of tensors", index,
           *layout.total_size, total);
  return result;
}

const std::vector<SafetensorsTensor>& Safetensors::tensors() const {
  return impl_->tensors;
}
const std::vector<std::string>& Safetensors::files() const {
  return impl_->files;
}
const std::map<std::string, std::string>& Safetensors::metadata() const {
  return impl_->metadata;
}

const SafetensorsTensor* Safetensors::find(std::string_view name) const {
  const auto at =
      std::lower_bound(impl_->tensors.begin(), impl_->tensors.end(), name,
                       [](const SafetensorsTensor& t, std::string_view n) { return t.name < n; });
  return at != impl_->tensors.end() && at->name == name ? &*at : nullptr;
}

const std::byte* Safetensors::data(const SafetensorsTensor& tensor) const {
  return impl_->mapped[tensor.file].data() + tensor.offset;
}

void Safetensors::release(const SafetensorsTensor& tensor) const {
  impl_->mapped[tensor.file].release(tensor.offset, tensor.bytes);
}

void Safetensors::read_floats(const SafetensorsTensor& tensor, int64_t first, int64_t count,
                              float* out) const {
  if (first < 0 || count < 0 || first + count > tensor.shape.count())
    internal_error("{}: elements [{}, {}) of {} do not exist", files()[tensor.file], first,
                   first + count, tensor.name);
  impl_->mapped[tensor.file].check_unchanged();
  const std::byte* from = data(tensor) + size_t(first) * size_of(tensor.type);
  switch (tensor.type) {
    case StoredType::f32:
      std::memcpy(out, from, size_t(count) * 4);
      return;
    case StoredType::bf16:
      for (int64_t i = 0; i < count; ++i) {
        BFloat16 value;
        std::memcpy(&value, from + 2 * i, 2);
        out[i] = to_float(value);
      }
      return;
    case StoredType::f16:
      for (int64_t i = 0; i < count; ++i) {
        Float16 value;
        std::memcpy(&value, from + 2 * i, 2);
        out[i] = to_float(value);
      }
      return;
    default:
      refuse("{}: tensor {} has dtype {}, expected F32, F16 or BF16", files()[tensor.file],
             printable(tensor.name), name_of(tensor.type));
  }
}

}  // namespace qat
