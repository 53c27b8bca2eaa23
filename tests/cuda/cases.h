// One case serves every backend: it makes its tensors in the memory it is given, runs a kernel of
// the table it is given, and says how closely each result must agree with the CPU's.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace qat::test {

/// Tensors of one run, filled by a fixed generator so that every backend sees the same numbers.
/// Behind each lie guard bytes; what is not filled holds NaN.
class Memory {
 public:
  using Allocate = std::function<std::byte*(size_t)>;
  explicit Memory(Allocate allocate) : allocate_(std::move(allocate)) {}

  View make(Shape shape, DType type);
  View zeros(Shape shape, DType type);
  View normal(Shape shape, DType type, unsigned seed, double deviation = 1.0);
  /// Whole numbers in [low, high].
  View integers(Shape shape, DType type, unsigned seed, int low, int high);
  View bytes(size_t count) { return make({int64_t(count)}, DType::u8); }
  template <class Args>
  void give_scratch(const Kernel<Args>& kernel, Args& args) {
    args.scratch = bytes(kernel.scratch_bytes == nullptr ? 0 : kernel.scratch_bytes(args));
  }
  bool guards_intact() const;

 private:
  Allocate allocate_;
  std::vector<View> views_;
};

void set(const View& view, int64_t i, double value);
double get(const ConstView& view, int64_t i);

/// What a case compares: relative is of ||a - b|| / ||b||; 0 means the same bits.
struct Result {
  std::string name;
  View view;
  double relative = 0;
};

struct Case {
  std::string name;
  std::function<std::vector<Result>(const KernelTable&, Stream&, Memory&)> run;
};
/// Float results of a type: what two orders of summation may differ by.
inline double close(DType type) {
  return type == DType::bf16 ? 3e-3 : 2e-6;
}

/// The results agree: to the bit, where one NaN is as good as another, or as closely as they say.
void expect_same(const Result& a, const Result& b);
void expect_close(const Result& a, const Result& b);
/// The two runs have the same bits, and are what is expected: its bits where it has no tolerance.
void expect_agreement(const std::vector<Result>& first, const std::vector<Result>& second,
                      const std::vector<Result>& expected);

/// Cases by the file they stand in.
struct Family {
  const char* name;
  std::vector<Case> (*cases)();
};
std::vector<Case> elementwise_cases();
std::vector<Case> quantize_cases();
std::vector<Case> rows_cases();
std::vector<Case> optimizer_cases();
std::vector<Case> matmul_cases();
std::vector<Case> attention_cases();
inline constexpr Family kFamilies[] = {{"Elementwise", elementwise_cases},
                                       {"Quantize", quantize_cases},
                                       {"Rows", rows_cases},
                                       {"Optimizer", optimizer_cases},
                                       {"Matmul", matmul_cases},
                                       {"Attention", attention_cases}};
inline void PrintTo(const Family& family, std::ostream* out) {
  *out << family.name;
}

}  // namespace qat::test
