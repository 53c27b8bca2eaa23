// Cases of the kernels that treat elements, or rows, one by one.
#include <cmath>

#include "tests/cuda/cases.h"

namespace qat::test {
namespace {

std::string with_type(const char* name, DType type, int64_t size) {
  return std::string(name) + "_" + name_of(type) + "_" + std::to_string(size);
}

Case add_case(DType type, int64_t count) {
  return {with_type("add", type, count),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View a = m.normal({count}, type, 1), b = m.normal({count}, type, 2);
            const View y = m.make({count}, type);
            kernels.add.run({a, b, y}, stream);
            return std::vector<Result>{{"y", y}};
          }};
}

Case cast_case(DType from, DType to, int64_t count) {
  return {with_type(from == DType::f32 ? "cast_from_f32_to" : "cast_from_bf16_to", to, count),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View x = m.normal({count}, from, 1, 3.0), y = m.make({count}, to);
            kernels.cast.run({x, y}, stream);
            return std::vector<Result>{{"y", y}};
          }};
}

Case fill_case(DType type, int64_t count) {
  return {with_type("fill", type, count),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View y = m.make({count}, type);
            kernels.fill.run({y, 0.3f}, stream);
            return std::vector<Result>{{"y", y}};
          }};
}

Case bias_case(DType type, int64_t cols) {
  return {with_type("bias_add", type, cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View y = m.normal({19, cols}, type, 1), bias = m.normal({cols}, DType::f32, 2);
            kernels.bias_add.run({bias, y}, stream);
            return std::vector<Result>{{"y", y}};
          }};
}

Case swiglu_case(DType type, int64_t count) {
  return {with_type("swiglu", type, count),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View gate = m.normal({count}, type, 1, 3.0), up = m.normal({count}, type, 2);
            const View dy = m.normal({count}, type, 3), y = m.make({count}, type);
            const View dgate = m.make({count}, type), dup = m.make({count}, type);
            kernels.swiglu.run({gate, up, y}, stream);
            kernels.swiglu_backward.run({dy, gate, up, dgate, dup}, stream);
            const double near = close(type);
            return std::vector<Result>{{"y", y, near}, {"dgate", dgate, near}, {"dup", dup, near}};
          }};
}

Case rope_case(DType type, int head_dim) {
  return {with_type("rope", type, head_dim),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kTokens = 13, kHeads = 3;
            const View x = m.normal({kTokens, kHeads * head_dim}, type, 1);
            const View positions = m.integers({kTokens}, DType::i32, 2, 0, 20);
            const View table = m.normal({21, head_dim}, DType::f32, 3);
            const View y = m.make(x.shape, type);
            kernels.rope.run({x, positions, table, y, head_dim, 1.0f}, stream);
            kernels.rope.run({x, positions, table, x, head_dim, -1.0f}, stream);
            return std::vector<Result>{{"y", y}, {"in place", x}};
          }};
}

Case hadamard_case(DType type, int64_t width) {
  return {with_type("hadamard", type, width),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View x = m.normal({5, 2 * width}, type, 1), y = m.make(x.shape, type);
            Hadamard args{x, y, {}, width};
            m.give_scratch(kernels.hadamard, args);
            kernels.hadamard.run(args, stream);
            return std::vector<Result>{{"y", y}};
          }};
}

Case rms_norm_case(DType type, int64_t rows, int64_t cols, int64_t piece, bool extras) {
  return {with_type(extras ? "rms_norm_residual" : "rms_norm", type, piece),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const Shape shape{rows, cols};
            const View x = m.normal(shape, type, 1, 2.0), weight = m.normal({piece}, DType::f32, 2);
            const View y = m.make(shape, type), rstd = m.make({rows * cols / piece}, DType::f32);
            kernels.rms_norm.run({x, weight, y, rstd, 1e-5f}, stream);
            const View dy = m.normal(shape, type, 3), residual = m.normal(shape, type, 4);
            const View dx = m.make(shape, type), dweight = m.normal({piece}, DType::f32, 5);
            RmsNormBackward args{
                dy, x,       weight, rstd,  extras ? ConstView(residual) : ConstView(),
                dx, dweight, {},     extras};
            m.give_scratch(kernels.rms_norm_backward, args);
            kernels.rms_norm_backward.run(args, stream);
            const double near = close(type);
            return std::vector<Result>{
                {"y", y, near}, {"rstd", rstd, 1e-6}, {"dx", dx, near}, {"dweight", dweight, 2e-6}};
          }};
}

}  // namespace

std::vector<Case> elementwise_cases() {
  std::vector<Case> cases;
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const int64_t count : {int64_t(5), int64_t(8 * 700)}) {
      cases.push_back(add_case(type, count));
      cases.push_back(cast_case(DType::f32, type, count));
      cases.push_back(cast_case(DType::bf16, type, count));
      cases.push_back(fill_case(type, count));
      cases.push_back(bias_case(type, count % 8 == 0 ? 96 : 5));
      cases.push_back(swiglu_case(type, count));
    }
    for (const int head_dim : {6, 64}) cases.push_back(rope_case(type, head_dim));
    for (const int64_t width : {8, 12, 64, 9 * 64, 5 * 32})
      cases.push_back(hadamard_case(type, width));
    cases.push_back(rms_norm_case(type, 3, 7, 7, false));
    cases.push_back(rms_norm_case(type, 70, 576, 576, true));
    cases.push_back(rms_norm_case(type, 5, 2112, 2112, false));
    cases.push_back(rms_norm_case(type, 300, 4 * 64, 64, true));
    cases.push_back(rms_norm_case(type, 9, 100, 50, false));
  }
  return cases;
}

}  // namespace qat::test
