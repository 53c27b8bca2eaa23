// Reading GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), strictly and with every
// count checked against what is left of the file before anything is allocated for it.
#include "engine/io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "engine/core/error.h"
#include "engine/io/gguf_blocks.h"
#include "engine/io/mapped_file.h"
#include "engine/io/printable.h"

static_assert(std::endian::native == std::endian::little);

namespace qat {
namespace {

constexpr uint64_t kMaxKeys = 100'000, kMaxTensors = 200'000;
constexpr uint64_t kMaxElements = 4'000'000;  // of all metadata arrays together
constexpr uint64_t kMaxText = 96u << 20;      // of all metadata strings together

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// Reads the header front to back; every read is checked against the end of the file.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file) {}

  size_t at() const { return at_; }
  size_t left() const { return file_.size() - at_; }
  const std::string& path() const { return file_.path(); }

  template <class T>
  T take(const char* what) {
    if (left() < sizeof(T))
      refuse("{}: ends inside {} (byte {}); is the file truncated?", path(), what, at_);
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string text(const char* what) {
    const size_t begin = at_;
    const uint64_t length = take<uint64_t>(what);
    if (length > left())
      refuse("{}: {} claims {} bytes (byte {}), only {} follow; is the file truncated?", path(),
             what, length, begin, left());
    if ((text_ += length) > kMaxText)
      refuse("{}: more than {} bytes of text in the metadata (byte {})", path(), kMaxText, begin);
    std::string value(file_.text(at_, size_t(length)));
    at_ += size_t(length);
    return value;
  }

 private:
  const MappedFile& file_;
  size_t at_ = 0;
  uint64_t text_ = 0;
};

class HeaderReader {
 public:
  explicit HeaderReader(const MappedFile& file) : in_(file) {}

  void read(std::map<std::string, GgufValue, std::less<>>& metadata,
            std::vector<GgufTensor>& tensors) {
    if (in_.left() < 24 || in_.take<uint32_t>("the magic") != 0x46554747)
      refuse("{}: does not begin with the 24 byte header of a GGUF file", in_.path());
    const uint32_t version = in_.take<uint32_t>("the version");
    if (version != 2 && version != 3)
      refuse("{}: GGUF version {} (byte 4), 2 and 3 are read{}", in_.path(), version,
             (version & 0xFFFF) == 0 ? "; a big-endian file is not" : "");
    const uint64_t tensor_count = in_.take<uint64_t>("the tensor count");
    const uint64_t key_count = in_.take<uint64_t>("the key count");
    if (tensor_count > kMaxTensors)
      refuse("{}: {} tensors (byte 8), at most {} are read", in_.path(), tensor_count, kMaxTensors);
    if (key_count > kMaxKeys)
      refuse("{}: {} metadata keys (byte 16), at most {} are read", in_.path(), key_count,
             kMaxKeys);
    for (uint64_t i = 0; i < key_count; ++i) {
      const size_t begin = in_.at();
      std::string key = in_.text("a metadata key");
      if (key.empty() || key.size() > 65535)
        refuse("{}: a metadata key of {} bytes (byte {})", in_.path(), key.size(), begin);
      GgufValue value = this->value(key);
      const std::string shown = printable(key);
      if (!metadata.emplace(std::move(key), std::move(value)).second)
        refuse("{}: metadata key {} occurs twice (byte {})", in_.path(), shown, begin);
    }
    const uint64_t alignment = alignment_of(metadata);
    read_tensors(tensor_count, alignment, tensors);
  }

 private:
  GgufValue value(const std::string& key) {
    const size_t begin = in_.at();
    const uint32_t type = in_.take<uint32_t>("a value type");
    switch (type) {
      case kU8:
        return uint64_t(in_.take<uint8_t>("a value"));
      case kI8:
        return int64_t(in_.take<int8_t>("a value"));
      case kU16:
        return uint64_t(in_.take<uint16_t>("a value"));
      case kI16:
        return int64_t(in_.take<int16_t>("a value"));
      case kU32:
        return uint64_t(in_.take<uint32_t>("a value"));
      case kI32:
        return int64_t(in_.take<int32_t>("a value"));
      case kU64:
        return in_.take<uint64_t>("a value");
      case kI64:
        return in_.take<int64_t>("a value");
      case kF32:
        return double(in_.take<float>("a value"));
      case kF64:
        return in_.take<double>("a value");
      case kBool:
        return flag(key);
      case kString:
        return in_.text("a metadata string");
      case kArray:
        return array(key);
      default:
        refuse("{}: metadata key {} has the unknown value type {} (byte {})", in_.path(),
               printable(key), type, begin);
    }
  }

  bool flag(const std::string& key) {
    const uint8_t value = in_.take<uint8_t>("a boolean");
    if (value > 1)
      refuse("{}: metadata key {} is the boolean {} (byte {})", in_.path(), printable(key), value,
             in_.at() - 1);
    return value == 1;
  }

  GgufValue array(const std::string& key) {
    const size_t begin = in_.at();
    const uint32_t type = in_.take<uint32_t>("an array's type");
    const uint64_t count = in_.take<uint64_t>("an array's count");
    elements_ += std::min(count, kMaxElements + 1);
    if (elements_ > kMaxElements)
      refuse("{}: metadata key {} has {} elements (byte {}), at most {} in all arrays are read",
             in_.path(), printable(key), count, begin, kMaxElements);
    const auto read = [&]<class Stored, class Kept>(Stored, Kept) {
      if (count > in_.left() / sizeof(Stored))
        refuse("{}: metadata key {} claims {} elements (byte {}), only {} bytes follow", in_.path(),
               printable(key), count, begin, in_.left());
      std::vector<Kept> values(static_cast<size_t>(count));
      for (Kept& value : values) {
        const Stored stored = in_.take<Stored>("an array");
        if constexpr (std::is_same_v<Stored, uint64_t>)
          if (stored > uint64_t(std::numeric_limits<int64_t>::max()))
            refuse("{}: metadata key {} holds {} (byte {}), too large", in_.path(), printable(key),
                   stored, in_.at() - 8);
        value = Kept(stored);
      }
      return GgufValue(std::move(values));
    };
    switch (type) {
      case kU8:
      case kBool:
        return read(uint8_t{}, int64_t{});
      case kI8:
        return read(int8_t{}, int64_t{});
      case kU16:
        return read(uint16_t{}, int64_t{});
      case kI16:
        return read(int16_t{}, int64_t{});
      case kU32:
        return read(uint32_t{}, int64_t{});
      case kI32:
        return read(int32_t{}, int64_t{});
      case kU64:
        return read(uint64_t{}, int64_t{});
      case kI64:
        return read(int64_t{}, int64_t{});
      case kF32:
        return read(float{}, double{});
      case kF64:
        return read(double{}, double{});
      case kString: {
        if (count > in_.left() / 8)
          refuse("{}: metadata key {} claims {} strings (byte {}), only {} bytes follow",
                 in_.path(), printable(key), count, begin, in_.left());
        std::vector<std::string> values;
        values.reserve(size_t(count));
        for (uint64_t i = 0; i < count; ++i) values.push_back(in_.text("an array's string"));
        return values;
      }
      case kArray:
        refuse("{}: metadata key {} is an array of arrays (byte {}), which is not read", in_.path(),
               printable(key), begin);
      default:
        refuse("{}: metadata key {} is an array of the unknown type {} (byte {})", in_.path(),
               printable(key), type, begin);
    }
  }

  uint64_t alignment_of(const std::map<std::string, GgufValue, std::less<>>& metadata) const {
    const auto at = metadata.find("general.alignment");
    if (at == metadata.end()) return 32;
    const uint64_t* value = std::get_if<uint64_t>(&at->second);
    if (!value || !std::has_single_bit(*value) || *value > (1u << 20))
      refuse("{}: general.alignment must be a power of two up to 2^20{}", in_.path(),
             value ? fmt::format(", not {}", *value) : "");
    return *value;
  }

  void read_tensors(uint64_t count, uint64_t alignment, std::vector<GgufTensor>& tensors) {
    if (count > in_.left() / 32)  // a name, a count, one size, type and offset
      refuse("{}: claims {} tensors (byte 8), only {} bytes follow the metadata", in_.path(), count,
             in_.left());
    std::unordered_set<std::string> names;
    for (uint64_t i = 0; i < count; ++i) {
      GgufTensor tensor = this->tensor();
      if (!names.insert(tensor.name).second)
        refuse("{}: tensor {} occurs twice", in_.path(), printable(tensor.name));
      tensors.push_back(std::move(tensor));
    }
    const uint64_t file_size = in_.at() + in_.left();
    const uint64_t base = (in_.at() + alignment - 1) / alignment * alignment;
    uint64_t expected = 0;
    for (GgufTensor& tensor : tensors) {
      if (tensor.offset != expected)
        refuse("{}: tensor {} is at offset {} of the data, expected {} (tensors follow each other)",
               in_.path(), printable(tensor.name), tensor.offset, expected);
      if (base > file_size ||
          tensor.bytes > file_size - base - std::min(expected, file_size - base))
        refuse(
            "{}: tensor {} ends past the end of the file ({} + {} + {} bytes, the file has {}); "
            "is it truncated?",
            in_.path(), printable(tensor.name), base, expected, tensor.bytes, file_size);
      tensor.offset += base;
      expected = (expected + tensor.bytes + alignment - 1) / alignment * alignment;
    }
  }

  GgufTensor tensor() {
    GgufTensor tensor;
    const size_t begin = in_.at();
    tensor.name = in_.text("a tensor's name");
    const std::string name = printable(tensor.name);
    if (tensor.name.empty() || tensor.name.size() > 63)
      refuse("{}: a tensor name of {} bytes (byte {}), expected 1 to 63", in_.path(),
             tensor.name.size(), begin);
    const uint32_t rank = in_.take<uint32_t>("a tensor's dimensions");
    if (rank < 1 || rank > 4)
      refuse("{}: tensor {} has {} dimensions (byte {}), expected 1 to 4", in_.path(), name, rank,
             in_.at() - 4);
    uint64_t sizes[4] = {1, 1, 1, 1}, count = 1;
    for (uint32_t i = 0; i < rank; ++i) {
      sizes[i] = in_.take<uint64_t>("a tensor's sizes");
      if (sizes[i] == 0 || sizes[i] > (uint64_t(1) << 40) ||
          __builtin_mul_overflow(count, sizes[i], &count) || count > (uint64_t(1) << 48))
        refuse("{}: tensor {} has an impossible size {} (byte {})", in_.path(), name, sizes[i],
               in_.at() - 8);
    }
    const auto at = [&](int i) { return int64_t(sizes[i]); };
    tensor.shape = rank == 1   ? Shape{at(0)}
                   : rank == 2 ? Shape{at(1), at(0)}
                   : rank == 3 ? Shape{at(2), at(1), at(0)}
                               : Shape{at(3), at(2), at(1), at(0)};
    tensor.type = in_.take<uint32_t>("a tensor's type");
    const GgufBlock* block = gguf_block(tensor.type);
    if (!block)
      refuse("{}: tensor {} has the unknown type {} (byte {})", in_.path(), name, tensor.type,
             in_.at() - 4);
    if (at(0) % block->elements != 0)
      refuse("{}: tensor {} has rows of {} elements, type {} packs them by {}", in_.path(), name,
             at(0), block->name, block->elements);
    tensor.bytes = count / uint64_t(block->elements) * uint64_t(block->bytes);
    tensor.offset = in_.take<uint64_t>("a tensor's offset");
    return tensor;
  }

  Cursor in_;
  uint64_t elements_ = 0;
};

}  // namespace

struct GgufFile::Impl {
  std::vector<MappedFile> files;
  std::vector<std::string> paths;
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::vector<GgufTensor> tensors;
  std::map<std::string_view, const GgufTensor*> by_name;

  // The other files of a split model, whose first says that there are `count`.
  void add_parts(int64_t count, int64_t number, int64_t total);

  // The value under a key as T; nullptr when absent.
  template <class T>
  const T* get(std::string_view key, const char* wanted) const {
    const auto at = metadata.find(key);
    if (at == metadata.end()) return nullptr;
    const T* value = std::get_if<T>(&at->second);
    if (!value) refuse("{}: metadata key {} is not {}", paths.front(), printable(key), wanted);
    return value;
  }
};

namespace {

// "model-00001-of-00003.gguf" without its end; refuses a name that says something else.
std::string split_stem(const std::string& path, int64_t number, int64_t count) {
  const std::string end = fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
  if (!path.ends_with(end))
    refuse("{}: says it is part {} of {}, so its name must end in {}, as gguf-split writes it",
           path, number + 1, count, end);
  return path.substr(0, path.size() - end.size());
}

// -1 where the key is missing or no number.
int64_t split_value(const std::map<std::string, GgufValue, std::less<>>& metadata,
                    const char* key) {
  const auto at = metadata.find(key);
  if (at == metadata.end()) return -1;
  if (const uint64_t* value = std::get_if<uint64_t>(&at->second))
    return int64_t(std::min<uint64_t>(*value, 1u << 30));
  const int64_t* value = std::get_if<int64_t>(&at->second);
  return value && *value >= 0 ? *value : -1;
}

}  // namespace

void GgufFile::Impl::add_parts(int64_t count, int64_t number, int64_t total) {
  const std::string first = paths.front();
  if (count < 1 || count > 65535) refuse("{}: {} is {}", first, kSplitCount, count);
  if (number < 0 || number >= count)
    refuse("{}: {} is {}, of {} parts", first, kSplitNumber, number, count);
  const std::string stem = split_stem(first, number, count);
  if (number != 0)
    refuse("{}: is part {} of {} of a split model; open the first, {}-00001-of-{:05}.gguf", first,
           number + 1, count, stem, count);
  std::unordered_set<std::string> names;
  for (const GgufTensor& tensor : tensors) names.insert(tensor.name);
  for (int64_t part = 1; part < count; ++part) {
    const std::string path = fmt::format("{}-{:05}-of-{:05}.gguf", stem, part + 1, count);
    files.push_back(MappedFile::open(path));
    paths.push_back(path);
    std::map<std::string, GgufValue, std::less<>> keys;
    std::vector<GgufTensor> more;
    HeaderReader(files.back()).read(keys, more);
    if (split_value(keys, kSplitNumber) != part || split_value(keys, kSplitCount) != count)
      refuse("{}: says it is part {} of {}, expected part {} of {}; is it of another model?", path,
             split_value(keys, kSplitNumber) + 1, split_value(keys, kSplitCount), part + 1, count);
    for (GgufTensor& tensor : more) {
      if (!names.insert(tensor.name).second)
        refuse("{}: tensor {} is in an earlier part already", path, printable(tensor.name));
      tensor.file = uint32_t(part);
      tensors.push_back(std::move(tensor));
    }
  }
  if (total >= 0 && total != int64_t(tensors.size()))
    refuse("{}: its {} parts hold {} tensors, {} says {}", first, count, tensors.size(),
           kSplitTensors, total);
}

GgufFile::GgufFile() = default;
GgufFile::~GgufFile() = default;

std::shared_ptr<const GgufFile> GgufFile::open(const std::string& path) {
  std::shared_ptr<GgufFile> result(new GgufFile);
  result->impl_.reset(new Impl);
  Impl& impl = *result->impl_;
  impl.files.push_back(MappedFile::open(path));
  impl.paths.push_back(path);
  HeaderReader(impl.files.front()).read(impl.metadata, impl.tensors);
  if (const int64_t count = result->integer(kSplitCount, 1); count != 1)
    impl.add_parts(count, result->integer(kSplitNumber, -1), result->integer(kSplitTensors, -1));
  for (const GgufTensor& tensor : impl.tensors) impl.by_name.emplace(tensor.name, &tensor);
  return result;
}

const std::string& GgufFile::path() const {
  return impl_->paths.front();
}
const std::vector<std::string>& GgufFile::files() const {
  return impl_->paths;
}
const std::map<std::string, GgufValue, std::less<>>& GgufFile::metadata() const {
  return impl_->metadata;
}
const std::vector<GgufTensor>& GgufFile::tensors() const {
  return impl_->tensors;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto at = impl_->by_name.find(name);
  return at == impl_->by_name.end() ? nullptr : at->second;
}

const std::string* GgufFile::string(std::string_view key) const {
  return impl_->get<std::string>(key, "a string");
}
const std::vector<std::string>* GgufFile::strings(std::string_view key) const {
  return impl_->get<std::vector<std::string>>(key, "an array of strings");
}
const std::vector<double>* GgufFile::numbers(std::string_view key) const {
  return impl_->get<std::vector<double>>(key, "an array of real numbers");
}
const std::vector<int64_t>* GgufFile::integers(std::string_view key) const {
  return impl_->get<std::vector<int64_t>>(key, "an array of integers");
}

int64_t GgufFile::integer(std::string_view key, int64_t otherwise) const {
  const auto at = impl_->metadata.find(key);
  if (at == impl_->metadata.end()) return otherwise;
  if (const int64_t* value = std::get_if<int64_t>(&at->second)) return *value;
  const uint64_t* value = std::get_if<uint64_t>(&at->second);
  if (!value) refuse("{}: metadata key {} is not an integer", path(), printable(key));
  if (*value > uint64_t(std::numeric_limits<int64_t>::max()))
    refuse("{}: metadata key {} is {}, too large", path(), printable(key), *value);
  return int64_t(*value);
}

double GgufFile::number(std::string_view key, double otherwise) const {
  const double* value = impl_->get<double>(key, "a real number");
  return value ? *value : otherwise;
}

bool GgufFile::flag(std::string_view key, bool otherwise) const {
  const bool* value = impl_->get<bool>(key, "a boolean");
  return value ? *value : otherwise;
}

void GgufFile::read_rows(const GgufTensor& tensor, int64_t row, int64_t rows, float* out) const {
  const GgufBlock& block = *gguf_block(tensor.type);
  if (!block.decodable)
    refuse(
        "{}: tensor {} has type {}, which is not read; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
        "Q5_1, Q4_K, Q5_K and Q6_K are",
        path(), printable(tensor.name), gguf_type_name(tensor.type));
  if (row < 0 || rows < 0 || row + rows > tensor.shape.rows())
    internal_error("{}: rows [{}, {}) of {} do not exist", path(), row, row + rows, tensor.name);
  impl_->files[tensor.file].check_unchanged();
  const int64_t blocks_in_row = tensor.shape.cols() / block.elements;
  decode_blocks(GgufType(tensor.type), data(tensor) + row * blocks_in_row * block.bytes,
                rows * blocks_in_row, out);
}

const std::byte* GgufFile::data(const GgufTensor& tensor) const {
  return impl_->files[tensor.file].data() + tensor.offset;
}

}  // namespace qat
