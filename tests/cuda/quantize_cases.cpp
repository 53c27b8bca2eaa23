// Cases of everything that puts numbers on grids. Codes, scales and values have the CPU's bits.
#include "kernels/quant_math.h"
#include "tests/cuda/cases.h"

namespace qat::test {
namespace {

std::string name_of_spec(const QuantSpec& spec, DType type, int64_t cols) {
  return std::string(name_of(type)) + "_" + std::to_string(cols) + "_bits" +
         std::to_string(spec.bits) + "_per" + std::to_string(int(spec.per)) + "_range" +
         std::to_string(int(spec.range)) + "_rule" + std::to_string(int(spec.rule)) + "_scale" +
         std::to_string(int(spec.scale_type)) + "_form" + std::to_string(int(spec.form)) +
         (spec.division == Division::exact ? "_exact" : "");
}

Shape grid_shape(const QuantSpec& spec, int64_t rows, int64_t cols) {
  return spec.per == Per::tensor ? Shape{1} : Shape{rows, spec.groups(cols)};
}

/// Codes and scales, fake quant with its gradient, and both once more on the grid that was found.
Case quantize_case(const QuantSpec& spec, DType type, int64_t cols) {
  return {
      "quantize_" + name_of_spec(spec, type, cols),
      [=](const KernelTable& kernels, Stream& stream, Memory& m) {
        constexpr int64_t kRows = 9;
        const Shape shape{kRows, cols}, grids = grid_shape(spec, kRows, cols);
        const View x = m.normal(shape, type, unsigned(spec.bits)), codes = m.make(shape, DType::i8);
        for (int64_t i = cols; i < cols + 32; ++i) set(x, i, 0.0);  // a group of zeros
        set(x, 2 * cols, -2.5);                                     // two of the largest magnitude
        set(x, 2 * cols + 3, 2.5);
        const bool second = !spec.symmetric();
        const View scale = m.make(grids, DType::f32);
        const View zero = second ? m.make(grids, DType::f32) : View{};
        kernels.quantize.run({x, {}, {}, codes, scale, zero, spec}, stream);
        const View y = m.make(shape, type), fake_scale = m.make(grids, DType::f32);
        const View fake_zero = second ? m.make(grids, DType::f32) : View{};
        kernels.fake_quant.run({x, {}, {}, y, fake_scale, fake_zero, spec}, stream);
        const View other = m.normal(shape, type, 77, 1.5), dx = m.make(shape, type);
        kernels.fake_quant_backward.run({other, other, scale, zero, dx, spec}, stream);
        const View given_codes = m.make(shape, DType::i8), given_y = m.make(shape, DType::f32);
        kernels.quantize.run({other, scale, zero, given_codes, {}, {}, spec}, stream);
        kernels.fake_quant.run({other, scale, zero, given_y, fake_scale, fake_zero, spec}, stream);
        std::vector<Result> results = {
            {"codes", codes},           {"scale", scale}, {"y", y},
            {"fake scale", fake_scale}, {"dx", dx},       {"given codes", given_codes},
            {"given y", given_y}};
        if (second) {
          results.push_back({"zero", zero});
          results.push_back({"fake zero", fake_zero});
        }
        return results;
      }};
}

/// Rounded at random, onto a grid of its own and onto a given one, as rows of a larger tensor.
Case stochastic_case(const QuantSpec& spec, DType type, int64_t cols) {
  return {"stochastic_" + name_of_spec(spec, type, cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kRows = 9;
            const Shape shape{kRows, cols}, grids = grid_shape(spec, kRows, cols);
            const View x = m.normal(shape, type, 1), codes = m.make(shape, DType::i8);
            const View y = m.make(shape, type), scale = m.make(grids, DType::f32);
            const View zero = spec.symmetric() ? View{} : m.make(grids, DType::f32);
            const View step = m.make({1}, DType::i64);
            set(step, 0, 7);
            const RoundingNoise noise{step, 11, 5 * cols};
            kernels.quantize.run({x, {}, {}, codes, scale, zero, spec, noise}, stream);
            kernels.fake_quant.run({x, scale, zero, y, {}, {}, spec, noise}, stream);
            return std::vector<Result>{{"codes", codes}, {"scale", scale}, {"y", y}};
          }};
}

/// Values of codes, and the gradients of scales; by listed columns too.
Case codes_case(const QuantSpec& spec, DType type, int64_t cols, bool listed) {
  return {std::string(listed ? "listed_" : "codes_") + name_of_spec(spec, type, cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kRows = 7;
            const Shape shape{kRows, cols}, grids = grid_shape(spec, kRows, cols);
            const View codes = m.integers(shape, DType::i8, 1, spec.qmin(), spec.qmax());
            const View scale = m.normal(grids, DType::f32, 2), dy = m.normal(shape, DType::f32, 3);
            const View zero = spec.symmetric() ? View{} : m.integers(grids, DType::f32, 4, -3, 3);
            const View group =
                listed ? m.integers({cols}, DType::i32, 5, 0, int(spec.groups(cols)) - 1) : View{};
            const View y = m.make(shape, type), dscale = m.normal(grids, DType::f32, 6);
            const View fresh = m.make(grids, DType::f32);
            kernels.dequantize.run({codes, scale, zero, y, spec, group}, stream);
            std::vector<Result> results = {{"y", y}};
            if (spec.form == Form::e4m3) return results;
            kernels.scale_gradient.run({dy, codes, zero, group, dscale, spec, true}, stream);
            kernels.scale_gradient.run({dy, codes, zero, group, fresh, spec, false}, stream);
            results.push_back({"dscale", dscale, 1e-6});
            results.push_back({"fresh dscale", fresh, 1e-6});
            return results;
          }};
}

/// LSQ's gradients, and scales rounded to every type.
Case trained_case(const QuantSpec& spec, DType type, int64_t cols) {
  return {"trained_" + name_of_spec(spec, type, cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kRows = 7;
            const Shape shape{kRows, cols}, grids = grid_shape(spec, kRows, cols);
            const View raw = m.normal(grids, DType::f32, 1, 0.3), scale = m.make(grids, DType::f32);
            const View kept = m.make(grids, DType::f32);
            kernels.round_scale.run({raw, scale, spec.scale_type, NegativeScale::zero}, stream);
            kernels.round_scale.run({raw, kept, spec.scale_type, NegativeScale::kept}, stream);
            stream.wait();
            for (int64_t i = 0; i < raw.count(); ++i) set(raw, i, 0.05 + 0.01 * double(i % 7));
            const View x = m.normal(shape, type, 2), dy = m.normal(shape, type, 3);
            const View zero = spec.symmetric() ? View{} : m.integers(grids, DType::f32, 4, -3, 3);
            const View dx = m.make(shape, type), dscale = m.make(grids, DType::f32);
            TrainedScaleBackward args{dy, x, raw, zero, dx, dscale, {}, spec, 0.5f};
            m.give_scratch(kernels.trained_scale_backward, args);
            kernels.trained_scale_backward.run(args, stream);
            return std::vector<Result>{
                {"scale", scale}, {"kept", kept}, {"dx", dx}, {"dscale", dscale, 2e-6}};
          }};
}

}  // namespace

std::vector<Case> quantize_cases() {
  std::vector<Case> cases;
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const int bits : {2, 4, 8})
      for (const Per per : {Per::tensor, Per::row, Per::group})
        for (const Range range : {Range::strict, Range::full, Range::stretched, Range::asymmetric})
          for (const ScaleRule rule :
               {ScaleRule::amax, ScaleRule::half_range, ScaleRule::no_clip, ScaleRule::signed_max,
                ScaleRule::min_max, ScaleRule::mse, ScaleRule::mse_signed}) {
            if (per == Per::tensor && bits != 4) continue;
            // Each rule and range once at each width of group, in turn with the types of scales.
            const auto scale_type = ScaleType((int(per) + int(rule) + bits / 2) % 4);
            cases.push_back(quantize_case({bits, per, 32, range, rule, scale_type}, type,
                                          bits == 4 ? 288 : 96));
          }
    cases.push_back(quantize_case(
        {4, Per::group, 32, Range::minimum, ScaleRule::min_max, ScaleType::f16, Division::stored},
        type, 96));
    cases.push_back(quantize_case(
        {4, Per::tensor, 0, Range::minimum, ScaleRule::min_max, ScaleType::f16}, type, 96));
    cases.push_back(quantize_case(
        {8, Per::group, 32, Range::strict, ScaleRule::amax, ScaleType::f16, Division::exact}, type,
        96));
    cases.push_back(quantize_case({8, Per::row, 0, Range::strict, ScaleRule::amax, ScaleType::f32},
                                  type, 2112));
    cases.push_back(
        quantize_case({8, Per::row, 0, Range::strict, ScaleRule::amax, ScaleType::f32}, type, 37));
    QuantSpec e4m3;
    e4m3.form = Form::e4m3;
    cases.push_back(quantize_case(e4m3, type, 96));
    cases.push_back(quantize_case(q4_k_grid(), type, 512));
    cases.push_back(quantize_case(q6_k_grid(), type, 512));
    cases.push_back(codes_case(e4m3, type, 96, false));
    for (const Per per : {Per::tensor, Per::row, Per::group})
      for (const Range range : {Range::full, Range::stretched, Range::asymmetric, Range::minimum}) {
        const QuantSpec spec{4, per, 32, range, ScaleRule::min_max, ScaleType(int(per))};
        cases.push_back(codes_case(spec, type, 96, false));
        if (per == Per::group) cases.push_back(codes_case(spec, type, 96, true));
        if (range != Range::minimum) cases.push_back(trained_case(spec, type, 352));
        cases.push_back(stochastic_case(spec, type, range == Range::full ? 352 : 96));
      }
  }
  return cases;
}

}  // namespace qat::test
