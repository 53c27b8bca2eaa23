// Cases of products: plain, integer, packed, of adapters, and the head's with its loss.
#include "kernels/packed.h"
#include "tests/cuda/cases.h"

namespace qat::test {
namespace {

Case matmul_case(DType in, DType out, MatmulForm form, bool accumulate) {
  return {std::string("matmul_") + name_of(in) + "_" + name_of(out) + "_form" +
              std::to_string(int(form)) + (accumulate ? "_accumulate" : ""),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kM = 33, kN = 40, kK = 48;
            const bool tn = form == MatmulForm::tn, nt = form == MatmulForm::nt;
            const View a = m.normal(tn ? Shape{kK, kM} : Shape{kM, kK}, in, 1);
            const View b = m.normal(nt ? Shape{kN, kK} : Shape{kK, kN}, in, 2);
            const View c = m.normal({kM, kN}, out, 3);
            kernels.matmul.run({a, b, c, form, accumulate}, stream);
            return std::vector<Result>{{"c", c, close(out)}};
          }};
}

Case int8_case(DType out, int64_t tokens, int64_t outputs, int64_t inputs, bool zeros) {
  return {std::string("matmul_int8_") + name_of(out) + "_" + std::to_string(outputs) + "_" +
              std::to_string(inputs) + (zeros ? "_zeros" : ""),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View a = m.integers({tokens, inputs}, DType::i8, 1, -128, 127);
            const View b = m.integers({outputs, inputs}, DType::i8, 2, -127, 127);
            const View scale_T = m.normal({tokens}, DType::f32, 3);
            const View scale_O = m.normal({outputs}, DType::f32, 4);
            const View zero = m.integers({tokens}, DType::f32, 5, -20, 20);
            const View sums = m.zeros({outputs}, DType::i32), y = m.make({tokens, outputs}, out);
            for (int64_t o = 0; o < outputs; ++o)
              for (int64_t k = 0; k < inputs; ++k)
                sums.as<int32_t>()[o] += b.as<int8_t>()[o * inputs + k];
            MatmulInt8 args{a, scale_T, zeros ? ConstView(zero) : ConstView(),
                            b, scale_O, zeros ? ConstView(sums) : ConstView(),
                            y, {}};
            m.give_scratch(kernels.matmul_int8, args);
            kernels.matmul_int8.run(args, stream);
            return std::vector<Result>{{"y", y}};
          }};
}

Case packed_case(const PackedSpec& spec, DType type, int64_t rows, int64_t cols) {
  return {std::string("packed_type") + std::to_string(int(spec.type)) +
              (spec.double_quant ? "_double_" : "_") + name_of(type) + "_" + std::to_string(cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const Shape shape{rows, cols};
            const View x = m.normal(shape, DType::f32, 1);
            const PackedShapes parts = packed_shapes(shape, spec);
            const auto part = [&](const Shape& part_shape, DType part_type) {
              return part_shape.count() > 0 ? m.make(part_shape, part_type) : View{};
            };
            PackedParts w;
            w.codes = part(parts.codes, parts.codes_type);
            w.absmax = part(parts.absmax, parts.absmax_type);
            w.nested_absmax = part(parts.nested_absmax, DType::f32);
            w.nested_offset = part(parts.nested_offset, DType::f32);
            w.shape = shape;
            w.spec = spec;
            kernels.pack.run({x, w}, stream);
            const PackedView view{w.codes, w.absmax, w.nested_absmax, w.nested_offset, shape, spec};
            const View y = m.make(shape, type);
            kernels.unpack.run({view, y}, stream);
            const View a = m.normal({5, cols}, type, 2), c = m.make({5, rows}, type);
            MatmulPacked args{a, view, c, {}, MatmulForm::nt};
            m.give_scratch(kernels.matmul_packed, args);
            kernels.matmul_packed.run(args, stream);
            std::vector<Result> results = {
                {"codes", w.codes}, {"absmax", w.absmax}, {"y", y}, {"c", c, close(type)}};
            if (w.nested_absmax) results.push_back({"nested absmax", w.nested_absmax});
            if (w.nested_offset) results.push_back({"nested offset", w.nested_offset});
            return results;
          }};
}

Case adapter_case(DType type, bool keeps, bool low_rank) {
  return {std::string("adapter_merge_") + name_of(type) + (keeps ? "_kept" : "_lengths") +
              (low_rank ? "_low_rank" : ""),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kRows = 1030, kCols = 24, kRank = 4;
            const View w = m.normal({kRows, kCols}, type, 1);
            const View a = low_rank ? m.normal({kRank, kCols}, DType::f32, 2) : View{};
            const View b = low_rank ? m.normal({kRows, kRank}, DType::f32, 3) : View{};
            const View y = keeps ? m.make({kRows, kCols}, DType::f32) : View{};
            const View norm = m.make({kRows}, DType::f32);
            AdapterMerge args{w, a, b, y, norm, {}};
            m.give_scratch(kernels.adapter_merge, args);
            kernels.adapter_merge.run(args, stream);
            std::vector<Result> results = {{"norm", norm, 1e-6}};
            if (keeps) results.push_back({"y", y, 1e-6});
            return results;
          }};
}

struct HeadShape {
  int64_t tokens, hidden, vocabulary;
};

Case head_case(DType type, const HeadShape& shape, bool taught, float ce, float temperature) {
  return {std::string("head_loss_") + name_of(type) + "_" + std::to_string(shape.vocabulary) +
              (taught ? "_taught" : "") + (ce > 0 ? "_ce" : ""),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const auto [tokens, hidden, vocabulary] = shape;
            const View x = m.normal({tokens, hidden}, type, 1);
            const View w = m.normal({vocabulary, hidden}, type, 2, 0.3);
            const View targets = m.integers({tokens}, DType::i32, 3, -1, int(vocabulary) - 1);
            const View teacher_x = m.normal({tokens, hidden}, type, 4);
            const View inv_tokens = m.make({1}, DType::f32);
            set(inv_tokens, 0, 0.1);
            const View sums = m.make({4}, DType::f32), nll = m.make({tokens}, DType::f32);
            const View dx = m.make({tokens, hidden}, type);
            const View dw = m.normal({vocabulary, hidden}, DType::f32, 5, 0.01);
            HeadLoss args{};
            args.x_TC = x;
            args.w_VC = w;
            args.targets_T = targets;
            if (taught) args.teacher_x_TC = teacher_x;
            if (taught) args.teacher_w_VC = w;
            args.inv_tokens = inv_tokens;
            args.sums = sums;
            args.nll_T = nll;
            args.dx_TC = dx;
            args.dw_VC = dw;
            args.ce_weight = ce;
            args.kl_weight = taught ? 0.7f : 0.0f;
            args.temperature = temperature;
            args.accumulate_dw = true;
            m.give_scratch(kernels.head_loss, args);
            kernels.head_loss.run(args, stream);
            // The same once more, without gradients.
            const View again = m.make({4}, DType::f32);
            args.sums = again;
            args.dx_TC = {};
            args.dw_VC = {};
            m.give_scratch(kernels.head_loss, args);
            kernels.head_loss.run(args, stream);
            return std::vector<Result>{{"sums", sums, 2e-6},
                                       {"again", again, 2e-6},
                                       {"nll", nll, 2e-6},
                                       {"dx", dx, close(type)},
                                       {"dw", dw, type == DType::bf16 ? 1e-3 : 2e-6}};
          }};
}

}  // namespace

std::vector<Case> matmul_cases() {
  std::vector<Case> cases;
  for (const MatmulForm form : {MatmulForm::nt, MatmulForm::nn, MatmulForm::tn}) {
    cases.push_back(matmul_case(DType::f32, DType::f32, form, false));
    cases.push_back(matmul_case(DType::bf16, DType::bf16, form, false));
    cases.push_back(matmul_case(DType::bf16, DType::f32, form, true));
  }
  for (const DType type : {DType::f32, DType::bf16}) {
    cases.push_back(int8_case(type, 21, 40, 64, false));
    cases.push_back(int8_case(type, 21, 40, 64, true));
    cases.push_back(int8_case(type, 5, 7, 35, true));
    for (const PackedSpec& spec :
         {PackedSpec{PackedType::int8, false}, PackedSpec{PackedType::nf4, false},
          PackedSpec{PackedType::nf4, true}, PackedSpec{PackedType::fp4, true}})
      cases.push_back(packed_case(spec, type, 300, 64));
    cases.push_back(packed_case({PackedType::fp4, false}, type, 3, 7));
    cases.push_back(adapter_case(type, true, true));
    cases.push_back(adapter_case(type, false, true));
    cases.push_back(adapter_case(type, false, false));
    cases.push_back(head_case(type, {20, 24, 77}, false, 1.0f, 1.0f));
    cases.push_back(head_case(type, {20, 24, 77}, true, 0.0f, 1.0f));
    cases.push_back(head_case(type, {9, 16, 2100}, true, 0.5f, 2.0f));
  }
  return cases;
}

}  // namespace qat::test
