// Where a program runs: a kernel table, the queue its kernels run in, and the memory they see. The
// CPU is built in; the GPU is a shared library that is opened when it is asked for, so that a
// program starts where there is no driver.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace qat {

/// The device failed in mid-run: what it holds cannot be trusted, and nothing is saved.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const char* name() const = 0;
  /// For people: the processor, and what of it is used.
  virtual std::string description() const = 0;
  virtual const KernelTable& kernels() const = 0;
  /// The queue of this backend.
  virtual Stream& stream() = 0;

  /// Memory filled with zeros that kernels read and write, and the host too while nothing is queued
  /// (Stream::wait). Page aligned. Null where there is not enough.
  virtual std::byte* allocate(size_t bytes) = 0;
  virtual void release(std::byte* memory, size_t bytes) = 0;

  /// Bytes of the memory that allocate() draws from.
  struct Memory {
    size_t free, total;
  };
  virtual Memory memory() const = 0;
};

/// The processor, with as many threads as `threads` says (0: see Stream).
std::unique_ptr<Backend> make_cpu_backend(int threads = 0);

/// The memory of make_cpu_backend, for stores that belong to no backend.
std::byte* allocate_host(size_t bytes);
void release_host(std::byte* memory, size_t bytes);

/// A GPU, or why there is none: in one line, with the versions of driver and runtime where it is
/// about them.
struct CudaBackend {
  std::unique_ptr<Backend> backend;
  std::string reason;
};
CudaBackend open_cuda_backend();

}  // namespace qat
