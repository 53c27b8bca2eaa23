#include "engine/runtime/store.h"

#include <sys/mman.h>

#include "engine/core/error.h"

namespace qat {

const char* name_of(Category category) {
  switch (category) {
    case Category::masters:
      return "masters";
    case Category::base:
      return "frozen base";
    case Category::teacher:
      return "teacher";
    case Category::gradients:
      return "gradients";
    case Category::moments:
      return "moments";
    case Category::state:
      return "state";
    case Category::inputs:
      return "inputs";
    case Category::arena:
      return "arena";
  }
  return "?";
}

// Anonymous mappings: zero-filled, page aligned, given back at once, and large ones use huge pages.
struct Store::Buffer {
  Buffer(Shape shape, DType dtype, Category category) : category(category) {
    view = View{nullptr, shape, dtype};
    mapped = std::max<size_t>(view.bytes(), 1);
    void* memory =
        mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      refuse(
          "out of memory: {} MiB wanted for {}; lower train.micro_batch or data.sequence, or set "
          "train.recompute: block",
          mapped >> 20, name_of(category));
    if (mapped >= (4u << 20)) madvise(memory, mapped, MADV_HUGEPAGE);
    view.data = static_cast<std::byte*>(memory);
  }
  ~Buffer() { munmap(view.data, mapped); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  View view;
  Category category;
  size_t mapped;
};

Store::Store() = default;
Store::~Store() = default;

View Store::make(const std::string& name, Shape shape, DType dtype, Category category) {
  auto& buffer = buffers_[name];
  if (!buffer) buffer = std::make_unique<Buffer>(shape, dtype, category);
  if (buffer->view.shape != shape || buffer->view.dtype != dtype)
    internal_error("store: {} exists with another shape or dtype", name);
  return buffer->view;
}

View Store::get(const std::string& name) const {
  const View view = find(name);
  if (!view) internal_error("store: no buffer named {}", name);
  return view;
}

View Store::find(const std::string& name) const {
  const auto found = buffers_.find(name);
  return found == buffers_.end() ? View{} : found->second->view;
}

void Store::erase(const std::string& name) {
  buffers_.erase(name);
}

Category Store::category(const std::string& name) const {
  const auto found = buffers_.find(name);
  if (found == buffers_.end()) internal_error("store: no buffer named {}", name);
  return found->second->category;
}

View Store::arena(size_t bytes) {
  if (!arena_ || arena_->view.bytes() < bytes) {
    arena_.reset();
    arena_ = std::make_unique<Buffer>(Shape{int64_t(bytes)}, DType::u8, Category::arena);
  }
  return arena_->view;
}

std::vector<Store::Entry> Store::entries() const {
  std::vector<Entry> result;
  for (const auto& [name, buffer] : buffers_)
    result.push_back({name, buffer->view, buffer->category});
  return result;
}

std::map<Category, size_t> Store::bytes_by_category() const {
  std::map<Category, size_t> result;
  for (const auto& [name, buffer] : buffers_) result[buffer->category] += buffer->view.bytes();
  if (arena_) result[Category::arena] += arena_->view.bytes();
  return result;
}

}  // namespace qat
