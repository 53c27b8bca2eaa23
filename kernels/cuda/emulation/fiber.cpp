#include "kernels/cuda/emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace qat::cuda::emulation {
namespace {

constexpr size_t kStackBytes = 256 << 10;  // only pages that are touched take memory

/// Stacks that all end at the same place of a page would share a few lines of the cache.
size_t end_of_stack() {
  static thread_local size_t next = 0;
  next = (next + 5 * 64) % 4096;
  return kStackBytes - next;
}

void tell_leaving([[maybe_unused]] void** fake, [[maybe_unused]] const void* bottom,
                  [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake, bottom, size);
#endif
}
void tell_arrived([[maybe_unused]] void* fake, [[maybe_unused]] const void** bottom,
                  [[maybe_unused]] size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, bottom, size);
#endif
}

}  // namespace

#if defined(__x86_64__)

// Saves the registers that a call keeps, and the stack pointer in *from; goes on at `to`.
extern "C" void qat_emulation_switch(void** from, void* to);
asm(R"(
.text
.type qat_emulation_switch, @function
qat_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size qat_emulation_switch, . - qat_emulation_switch

# The first switch to a fiber returns here, with begin in %rbx and its argument in %r12.
.type qat_emulation_first, @function
qat_emulation_first:
  movq %r12, %rdi
  callq *%rbx
  ud2
.size qat_emulation_first, . - qat_emulation_first
)");
extern "C" void qat_emulation_first();

Fiber::Fiber() : end_(end_of_stack()) {
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<std::byte*>(memory);
}

Fiber::~Fiber() {
  munmap(stack_, kStackBytes);
}

void Fiber::start(void (*entry)(void*), void* argument) {
  entry_ = entry;
  argument_ = argument;
  finished_ = false;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  auto** top = reinterpret_cast<void**>(stack_ + end_);
  *--top = nullptr;  // keeps the call in qat_emulation_first aligned
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&qat_emulation_first);
  *--top = nullptr;                                 // rbp
  *--top = reinterpret_cast<void*>(&Fiber::begin);  // rbx
  *--top = this;                                    // r12
  for (int i = 0; i < 3; ++i) *--top = nullptr;     // r13, r14, r15
  inside_ = top;
}

void Fiber::resume() {
  tell_leaving(&outside_fake_, stack_, kStackBytes);
  qat_emulation_switch(&outside_, inside_);
  tell_arrived(outside_fake_, nullptr, nullptr);
}

void Fiber::suspend() {
  void* fake = nullptr;
  tell_leaving(finished_ ? nullptr : &fake, outside_bottom_, outside_size_);
  qat_emulation_switch(&inside_, outside_);
  tell_arrived(fake, &outside_bottom_, &outside_size_);
}

#else

Fiber::Fiber() : end_(end_of_stack()) {
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<std::byte*>(memory);
  inside_ = new ucontext_t;
  outside_ = new ucontext_t;
}

Fiber::~Fiber() {
  munmap(stack_, kStackBytes);
  delete static_cast<ucontext_t*>(inside_);
  delete static_cast<ucontext_t*>(outside_);
}

void Fiber::start(void (*entry)(void*), void* argument) {
  entry_ = entry;
  argument_ = argument;
  finished_ = false;
  auto* inside = static_cast<ucontext_t*>(inside_);
  getcontext(inside);
  inside->uc_stack.ss_sp = stack_;
  inside->uc_stack.ss_size = end_;
  inside->uc_link = nullptr;
  const auto self = uint64_t(reinterpret_cast<uintptr_t>(this));
  void (*first)(unsigned, unsigned) = [](unsigned low, unsigned high) {
    begin(reinterpret_cast<Fiber*>(uintptr_t(uint64_t(high) << 32 | low)));
  };
  makecontext(inside, reinterpret_cast<void (*)()>(first), 2, unsigned(self), unsigned(self >> 32));
}

void Fiber::resume() {
  tell_leaving(&outside_fake_, stack_, kStackBytes);
  swapcontext(static_cast<ucontext_t*>(outside_), static_cast<ucontext_t*>(inside_));
  tell_arrived(outside_fake_, nullptr, nullptr);
}

void Fiber::suspend() {
  void* fake = nullptr;
  tell_leaving(finished_ ? nullptr : &fake, outside_bottom_, outside_size_);
  swapcontext(static_cast<ucontext_t*>(inside_), static_cast<ucontext_t*>(outside_));
  tell_arrived(fake, &outside_bottom_, &outside_size_);
}

#endif

void Fiber::begin(Fiber* self) {
  tell_arrived(nullptr, &self->outside_bottom_, &self->outside_size_);
  self->entry_(self->argument_);
  self->finished_ = true;
  self->suspend();
}

}  // namespace qat::cuda::emulation
