// The vector kernels give the same bits on every instruction set: a digest of their results is
// computed in child processes that run at a lower level.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

/// FNV-1a over tensors.
class Digest {
 public:
  void add(Tensor& tensor) {
    const View view = tensor.view();
    for (size_t i = 0; i < view.bytes(); ++i)
      value_ = (value_ ^ uint64_t(view.data[i])) * 0x100000001B3ull;
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xCBF29CE484222325ull;
};

void add_quantizer(Digest& digest, const QuantSpec& spec, int64_t cols, DType type,
                   Stream& stream) {
  const KernelTable& kernels = cpu_kernels();
  Tensor x({21, cols}, type), y({21, cols}, type), dx({21, cols}, type);
  x.fill_normal(unsigned(spec.bits), 1.0);
  const Shape grid = spec.per == Per::tensor ? Shape{1} : Shape{21, spec.groups(cols)};
  Tensor scale(grid, DType::f32), zero(grid, DType::f32);
  FakeQuant args{};
  args.x = x.view();
  args.y = y.view();
  args.scale = scale.view();
  args.zero = zero.view();
  args.spec = spec;
  kernels.fake_quant.run(args, stream);
  kernels.fake_quant_backward.run({x.view(), x.view(), scale.view(), zero.view(), dx.view(), spec},
                                  stream);
  for (Tensor* tensor : {&y, &scale, &zero, &dx}) digest.add(*tensor);
  if (spec.form != Form::integer) return;
  Tensor step({1}, DType::i64);
  step.view().as<int64_t>()[0] = 3;
  args.noise = {step.view(), 11};
  kernels.fake_quant.run(args, stream);
  digest.add(y);
  Tensor dscale(grid, DType::f32);
  TrainedScaleBackward trained{x.view(),      x.view(), scale.view(), zero.view(), dx.view(),
                               dscale.view(), {},       spec,         0.5f};
  Tensor scratch = test::scratch_for(kernels.trained_scale_backward, trained);
  trained.scratch = scratch.view();
  kernels.trained_scale_backward.run(trained, stream);
  digest.add(dx);
  digest.add(dscale);
  kernels.round_scale.run({dscale.view(), scale.view(), ScaleType::portable, NegativeScale::zero},
                          stream);
  digest.add(scale);
}

void add_quantizers(Digest& digest, DType type, Stream& stream) {
  for (int bits : {2, 3, 4, 8})
    for (Per per : {Per::tensor, Per::row, Per::group})
      for (Range range : {Range::strict, Range::full, Range::stretched, Range::asymmetric})
        for (ScaleRule rule :
             {ScaleRule::amax, ScaleRule::half_range, ScaleRule::no_clip, ScaleRule::signed_max,
              ScaleRule::min_max, ScaleRule::mse, ScaleRule::mse_signed})
          add_quantizer(digest, {bits, per, 32, range, rule, ScaleType::portable}, 608, type,
                        stream);
  for (QuantSpec spec : {q4_k_grid(), q6_k_grid()}) add_quantizer(digest, spec, 768, type, stream);
  QuantSpec e4m3;
  e4m3.form = Form::e4m3;
  add_quantizer(digest, e4m3, 608, type, stream);
}

void add_rotations(Digest& digest, DType type, Stream& stream) {
  for (const int64_t width : {8, 172, 576, 1536}) {
    Tensor x({9, width}, type), y({9, width}, type);
    x.fill_normal(unsigned(width), 1.0);
    Hadamard args{};
    args.x_TC = x.view();
    args.y_TC = y.view();
    args.width = width;
    Tensor scratch = test::scratch_for(cpu_kernels().hadamard, args);
    args.scratch = scratch.view();
    cpu_kernels().hadamard.run(args, stream);
    digest.add(y);
  }
}

void add_layers(Digest& digest, DType type, Stream& stream) {
  const KernelTable& kernels = cpu_kernels();
  const Shape shape{131, 577};
  Tensor a(shape, type), b(shape, type), c(shape, type), y(shape, type), z(shape, type);
  Tensor weight({577}, DType::f32), rstd({131}, DType::f32), dweight({577}, DType::f32);
  a.fill_normal(1, 3.0);
  b.fill_normal(2, 1.0);
  c.fill_normal(3, 1.0);
  weight.fill_normal(4, 1.0);
  kernels.rms_norm.run({a.view(), weight.view(), y.view(), rstd.view(), 1e-5f}, stream);
  RmsNormBackward backward{b.view(),       a.view(), weight.view(), rstd.view(), c.view(), z.view(),
                           dweight.view(), {},       false};
  Tensor scratch = test::scratch_for(kernels.rms_norm_backward, backward);
  backward.scratch = scratch.view();
  kernels.rms_norm_backward.run(backward, stream);
  for (Tensor* tensor : {&y, &z, &rstd, &dweight}) digest.add(*tensor);
  kernels.swiglu.run({a.view(), b.view(), y.view()}, stream);
  digest.add(y);
  kernels.swiglu_backward.run({c.view(), a.view(), b.view(), y.view(), z.view()}, stream);
  digest.add(y);
  digest.add(z);
}

void add_adamw(Digest& digest, DType p_type, DType state, Stream& stream) {
  constexpr int64_t kCount = 5003;
  Tensor p({kCount}, p_type), g({kCount}, DType::f32), m({kCount}, state), v({kCount}, state);
  Tensor m_absmax({20}, DType::f32), v_absmax({20}, DType::f32);
  for (Tensor* tensor : {&m, &v}) std::memset(tensor->view().data, 0, tensor->view().bytes());
  m_absmax.fill(0.0);
  v_absmax.fill(0.0);
  p.fill_normal(5, 1.0);
  for (int step = 1; step <= 3; ++step) {
    g.fill_normal(unsigned(step), 0.1);
    AdamW args{};
    args.p = p.view();
    args.m = m.view();
    args.v = v.view();
    if (state == DType::u8) {
      args.m_absmax = m_absmax.view();
      args.v_absmax = v_absmax.view();
    }
    args.g = g.view();
    args.lr = 1e-3f;
    args.beta1 = 0.9f;
    args.beta2 = 0.999f;
    args.eps = 1e-8f;
    args.weight_decay = 0.01f;
    args.grad_scale = 0.7f;
    args.step = step;
    args.seed = 9;
    cpu_kernels().adamw.run(args, stream);
  }
  for (Tensor* tensor : {&p, &m, &v, &m_absmax, &v_absmax}) digest.add(*tensor);
}

uint64_t digest_of_kernels() {
  Digest digest;
  Stream stream(2);
  for (DType type : {DType::f32, DType::bf16}) {
    add_quantizers(digest, type, stream);
    add_layers(digest, type, stream);
    add_rotations(digest, type, stream);
    add_adamw(digest, type, DType::f32, stream);
    add_adamw(digest, type, DType::u8, stream);
  }
  Tensor x({70001}, DType::f32);
  x.fill_normal(6, 1.0);
  Tensor out({4}, DType::f32);
  double sums[2] = {0, 0};
  cpu_kernels().sum_squares.run({x.view(), sums}, stream);
  std::memcpy(out.view().data, sums, sizeof sums);
  digest.add(out);
  return digest.value();
}

TEST(DigestTest, Print) {
  std::printf("digest %016llx\n", (unsigned long long)digest_of_kernels());
}

class SameBitsIsaTest : public testing::TestWithParam<const char*> {};

TEST_P(SameBitsIsaTest, AsOnThisProcessor) {
  if (cpu::isa_named(GetParam()) >= cpu::isa()) GTEST_SKIP() << "not below this level";
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  ASSERT_GT(length, 0);
  const std::string command = std::string("QAT_ISA=") + GetParam() + " '" +
                              std::string(self, size_t(length)) +
                              "' --gtest_filter=DigestTest.Print";
  FILE* child = popen(command.c_str(), "r");
  ASSERT_NE(child, nullptr);
  std::string output;
  std::array<char, 256> buffer;
  while (std::fgets(buffer.data(), int(buffer.size()), child) != nullptr) output += buffer.data();
  EXPECT_EQ(pclose(child), 0);
  const size_t at = output.find("digest ");
  ASSERT_NE(at, std::string::npos) << output;
  char expected[17];
  std::snprintf(expected, sizeof expected, "%016llx", (unsigned long long)digest_of_kernels());
  EXPECT_EQ(output.substr(at + 7, 16), expected);
}

INSTANTIATE_TEST_SUITE_P(Lowered, SameBitsIsaTest, testing::Values("scalar", "avx2", "avx512"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace qat
