#include "engine/runtime/store.h"

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

struct Store::Buffer {
  Buffer(Backend* backend, Shape shape, DType dtype, Category category)
      : category(category), backend(backend) {
    view = View{nullptr, shape, dtype};
    view.data = backend ? backend->allocate(view.bytes()) : allocate_host(view.bytes());
    if (view.data == nullptr)
      refuse(
          "out of memory{}: {} MiB wanted for {}; lower train.micro_batch or data.sequence, or set "
          "train.recompute: block",
          backend ? std::string(" of ") + backend->name() : "", view.bytes() >> 20,
          name_of(category));
  }
  ~Buffer() {
    if (backend)
      backend->release(view.data, view.bytes());
    else
      release_host(view.data, view.bytes());
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  View view;
  Category category;
  Backend* backend;
};

Store::Store() : Store(nullptr) {}
Store::Store(Backend* backend) : backend_(backend) {}
Store::~Store() = default;

View Store::make(const std::string& name, Shape shape, DType dtype, Category category) {
  auto& buffer = buffers_[name];
  if (!buffer) buffer = std::make_unique<Buffer>(backend_, shape, dtype, category);
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
    arena_ = std::make_unique<Buffer>(backend_, Shape{int64_t(bytes)}, DType::u8, Category::arena);
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
