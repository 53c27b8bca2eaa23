// Working memory of a thread that grows to the most it was asked for, for buffers whose number
// depends on the number of threads (a kernel's scratch does not).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace qat::cpu {

class Workspace {
 public:
  /// At least `bytes`, page aligned, contents undefined; valid until the next call.
  std::byte* get(size_t bytes) {
    constexpr size_t kAlign = 4096;
    if (buffer_.size() < bytes + kAlign) buffer_.resize(bytes + kAlign);
    void* at = buffer_.data();
    size_t space = buffer_.size();
    return static_cast<std::byte*>(std::align(kAlign, bytes, at, space));
  }

 private:
  std::vector<std::byte> buffer_;
};

}  // namespace qat::cpu
