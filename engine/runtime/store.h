// Everything that outlives a Program, by name: parameters, gradients, moments, scales, KV caches,
// the arena. What a checkpoint is made of. Memory is counted by category for the memory plan.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace qat {

/// What memory is spent on, as the plan before step 0 lists it.
enum class Category : uint8_t { masters, base, teacher, gradients, moments, state, inputs, arena };
const char* name_of(Category category);

class Store {
 public:
  /// Buffers lie in the host's memory.
  Store();
  /// Buffers lie in the backend's memory, which has to outlive the Store.
  explicit Store(Backend* backend);
  ~Store();
  Backend* backend() const { return backend_; }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// The buffer of that name, zero-filled at the first call. Throws Error(internal) if it exists
  /// with another shape or dtype, Error(refused) when memory runs out.
  View make(const std::string& name, Shape shape, DType dtype, Category category);
  /// Throws Error(internal) when there is none.
  View get(const std::string& name) const;
  /// Empty view when there is none.
  View find(const std::string& name) const;
  void erase(const std::string& name);
  /// Throws Error(internal) when there is no buffer of that name.
  Category category(const std::string& name) const;

  /// One arena for all programs; it grows and is never shrunk. Its contents do not outlive a run.
  View arena(size_t bytes);

  struct Entry {
    std::string name;
    View view;
    Category category;
  };
  /// Sorted by name.
  std::vector<Entry> entries() const;
  std::map<Category, size_t> bytes_by_category() const;

 private:
  struct Buffer;
  Backend* backend_;
  std::map<std::string, std::unique_ptr<Buffer>> buffers_;
  std::unique_ptr<Buffer> arena_;
};

}  // namespace qat
