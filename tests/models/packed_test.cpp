// NF4, FP4 and int8 against bitsandbytes (recorded), and products over packed matrices.
#include "kernels/packed.h"

#include <gtest/gtest.h>

#include "kernels/dynamic_maps.h"
#include "tests/kernels/tensors.h"
#include "tests/models/golden.h"

namespace qat {
namespace {

using test::Tensor;

struct Packed {
  Packed(const Shape& shape, const PackedSpec& spec)
      : shapes(packed_shapes(shape, spec)),
        codes(shapes.codes, shapes.codes_type),
        absmax(shapes.absmax, shapes.absmax_type),
        nested_absmax(shapes.nested_absmax, DType::f32),
        nested_offset(shapes.nested_offset, DType::f32),
        shape(shape),
        spec(spec) {}

  PackedParts parts() {
    return {codes.view(), absmax.view(), nested_absmax.view(), nested_offset.view(), shape, spec};
  }
  PackedView values() {
    return {codes.view(), absmax.view(), nested_absmax.view(), nested_offset.view(), shape, spec};
  }

  PackedShapes shapes;
  Tensor codes, absmax, nested_absmax, nested_offset;
  Shape shape;
  PackedSpec spec;
};

class Golden : public testing::Test {
 protected:
  Golden()
      : file_(Safetensors::open_file(golden::path("packed.safetensors"))),
        x_({128, 160}, DType::f32) {
    const std::vector<float> x = golden::floats(*file_, "x");
    std::memcpy(x_.view().data, x.data(), x.size() * sizeof(float));
  }
  Packed pack(const PackedSpec& spec) {
    Packed packed({128, 160}, spec);
    Stream stream;
    cpu_kernels().pack.run({x_.view(), packed.parts()}, stream);
    return packed;
  }
  std::vector<uint8_t> bytes(const std::string& name) {
    const SafetensorsTensor* tensor = file_->find(name);
    const auto* data = reinterpret_cast<const uint8_t*>(file_->data(*tensor));
    return {data, data + tensor->bytes};
  }
  static std::vector<uint8_t> bytes(Tensor& tensor) {
    const auto* data = tensor.view().as<uint8_t>();
    return {data, data + tensor.view().bytes()};
  }

  std::shared_ptr<const Safetensors> file_;
  Tensor x_;
};

// A code of -0 is 0 as well: bitsandbytes' own kernels disagree on its sign.
uint8_t one_zero(uint8_t pair) {
  const auto positive = [](int code) { return code == 8 ? 0 : code; };
  return uint8_t(positive(pair >> 4) << 4 | positive(pair & 15));
}

TEST_F(Golden, FourBitCodesAndAbsmaxAreThoseOfBitsandbytes) {
  for (const PackedType type : {PackedType::nf4, PackedType::fp4}) {
    const std::string name = type == PackedType::nf4 ? "nf4" : "fp4";
    Packed packed = pack({type, false});
    std::vector<uint8_t> got = bytes(packed.codes), expected = bytes(name + ".codes");
    if (type == PackedType::fp4)
      for (auto* codes : {&got, &expected})
        std::transform(codes->begin(), codes->end(), codes->begin(), one_zero);
    EXPECT_EQ(got, expected) << name;
    EXPECT_EQ(bytes(packed.absmax), bytes(name + ".absmax")) << name;
    EXPECT_TRUE(packed.codes.guard_intact() && packed.absmax.guard_intact());
  }
}

TEST_F(Golden, Int8CodesAreThoseOfBitsandbytes) {
  Packed packed = pack({PackedType::int8});
  EXPECT_EQ(bytes(packed.codes), bytes("int8.codes"));
  EXPECT_EQ(bytes(packed.absmax), bytes("int8.absmax"));
}

// PyTorch's mean depends on its vector width, and bitsandbytes' CPU search is off by one entry now
// and then.
TEST_F(Golden, NestedAbsmaxAgrees) {
  Packed packed = pack({PackedType::nf4, true});
  const std::vector<float> offset = golden::floats(*file_, "double.nested_offset");
  EXPECT_NEAR(packed.nested_offset[0], offset[0], 1e-6 * std::abs(offset[0]));
  const std::vector<float> nested = golden::floats(*file_, "double.nested_absmax");
  for (size_t i = 0; i < nested.size(); ++i)
    EXPECT_NEAR(packed.nested_absmax[int64_t(i)], nested[i], 1e-6 * nested[i]);
  const std::vector<uint8_t> got = bytes(packed.absmax), expected = bytes("double.absmax");
  const std::vector<float> absmax = golden::floats(*file_, "nf4.absmax");
  const DynamicMap map = signed_dynamic_map();
  int different = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LE(std::abs(int(got[i]) - int(expected[i])), 1) << i;
    different += got[i] != expected[i];
    const auto error = [&](uint8_t code) {
      return std::abs(map[code] * nested[i / 256] + offset[0] - absmax[i]);
    };
    EXPECT_LE(error(got[i]), error(expected[i]) + 1e-8f) << i;
  }
  EXPECT_LE(different, 8);
}

TEST(Packed, EveryCodeIsTheNearestAndComesBack) {
  for (const PackedType type : {PackedType::nf4, PackedType::fp4}) {
    const CodeTable& table = code_table(type);
    for (size_t code = 0; code < 16; ++code) {
      const uint8_t got =
          type == PackedType::nf4 ? nearest_nf4(table[code]) : nearest_fp4(table[code]);
      EXPECT_EQ(table[got], table[code]);
    }
    for (float x = -1.0f; x <= 1.0f; x += 0.00137f) {
      const uint8_t got = type == PackedType::nf4 ? nearest_nf4(x) : nearest_fp4(x);
      for (const float entry : table)
        EXPECT_LE(std::abs(table[got] - x), std::abs(entry - x) + 1e-7f) << x;
    }
  }
}

TEST(Packed, OddSizesAndZeros) {
  for (const PackedSpec spec : {PackedSpec{PackedType::nf4, true}, PackedSpec{PackedType::fp4},
                                PackedSpec{PackedType::int8}}) {
    Tensor x({7, 23}, DType::f32), y({7, 23}, DType::f32);
    x.fill_normal(4, 0.1);
    for (int64_t i = 0; i < 69; ++i) x.set(i, 0.0);  // a whole block, three whole rows
    Packed packed({7, 23}, spec);
    Stream stream;
    cpu_kernels().pack.run({x.view(), packed.parts()}, stream);
    cpu_kernels().unpack.run({packed.values(), y.view()}, stream);
    EXPECT_TRUE(packed.codes.guard_intact() && packed.absmax.guard_intact() &&
                packed.nested_absmax.guard_intact() && y.guard_intact());
    double largest = 0;
    for (int64_t i = 0; i < x.count(); ++i) largest = std::max(largest, std::abs(x[i]));
    for (int64_t i = 0; i < x.count(); ++i) EXPECT_NEAR(y[i], x[i], 0.2 * largest) << i;
    for (int64_t i = 0; i < 64 && !spec.double_quant; ++i) EXPECT_EQ(y[i], 0.0) << i;
  }
}

TEST(Packed, ProductsAreThoseOfTheValues) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const PackedSpec spec : {PackedSpec{PackedType::nf4, true}, PackedSpec{PackedType::int8}})
      for (const MatmulForm form : {MatmulForm::nt, MatmulForm::nn}) {
        Tensor w({48, 128}, DType::f32), values({48, 128}, dtype);
        w.fill_normal(1, 0.05);
        Packed packed({48, 128}, spec);
        Stream stream, single(1);
        cpu_kernels().pack.run({w.view(), packed.parts()}, stream);
        cpu_kernels().unpack.run({packed.values(), values.view()}, stream);
        const bool forward = form == MatmulForm::nt;
        Tensor a({5, forward ? 128 : 48}, dtype);
        a.fill_normal(2, 1.0);
        Tensor c({5, forward ? 48 : 128}, dtype), expected = c, one = c;
        MatmulPacked args{a.view(), packed.values(), c.view(), {}, form};
        Tensor scratch = test::scratch_for(cpu_kernels().matmul_packed, args);
        args.scratch = scratch.view();
        cpu_kernels().matmul_packed.run(args, stream);
        args.c = one.view();
        cpu_kernels().matmul_packed.run(args, single);
        cpu_kernels().matmul.run({a.view(), values.view(), expected.view(), form, false}, stream);
        EXPECT_TRUE(c.same_bits(expected) && c.same_bits(one) && scratch.guard_intact());
      }
}

}  // namespace
}  // namespace qat
