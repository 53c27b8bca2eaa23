// Cases of sums over rows and columns, embeddings, dropout and statistics.
#include <cmath>

#include "tests/cuda/cases.h"

namespace qat::test {
namespace {

std::string with_type(const char* name, DType type, int64_t size) {
  return std::string(name) + "_" + name_of(type) + "_" + std::to_string(size);
}

Case column_sum_case(DType type, int64_t rows, int64_t cols, bool times) {
  return {with_type(times ? "column_sum_of_products" : "column_sum", type, cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View x = m.normal({rows, cols}, type, 1), by = m.normal({rows, cols}, type, 2);
            const View out = m.normal({cols}, DType::f32, 3), fresh = m.make({cols}, DType::f32);
            for (const View& to : {out, fresh}) {
              ColumnSum args{x, to, {}, to.data == out.data, times ? ConstView(by) : ConstView()};
              m.give_scratch(kernels.column_sum, args);
              kernels.column_sum.run(args, stream);
            }
            return std::vector<Result>{{"out", out}, {"fresh", fresh}};
          }};
}

Case scale_case(DType type, int64_t cols) {
  return {
      with_type("scale", type, cols), [=](const KernelTable& kernels, Stream& stream, Memory& m) {
        const View x = m.normal({5, cols}, type, 1), y = m.make({5, cols}, type);
        const View rows = m.normal({5}, DType::f32, 2), columns = m.normal({cols}, DType::f32, 3);
        const View bias = m.normal({cols}, DType::f32, 4);
        const View by_row = m.make({5, cols}, type), by_column = m.make({5, cols}, type);
        kernels.scale.run({x, y, -0.3f}, stream);
        kernels.scale_axis.run({x, rows, {}, by_row, ScaleAxis::By::row}, stream);
        kernels.scale_axis.run({x, columns, bias, by_column, ScaleAxis::By::column}, stream);
        return std::vector<Result>{{"y", y}, {"by row", by_row}, {"by column", by_column}};
      }};
}

Case divide_case(int64_t cols) {
  return {
      with_type("divide_and_row_dot", DType::f32, cols),
      [=](const KernelTable& kernels, Stream& stream, Memory& m) {
        const View a = m.normal({5, cols}, DType::f32, 1), b = m.normal({5, cols}, DType::f32, 2);
        const View y = m.make({5, cols}, DType::f32), out = m.normal({5}, DType::f32, 3);
        const View fresh = m.make({5}, DType::f32);
        kernels.divide.run({a, b, y}, stream);
        kernels.row_dot.run({a, b, out, true}, stream);
        kernels.row_dot.run({a, b, fresh, false}, stream);
        return std::vector<Result>{{"y", y}, {"out", out, 1e-7}, {"fresh", fresh, 1e-7}};
      }};
}

Case embedding_case(DType type, int64_t cols) {
  return {with_type("embedding", type, cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kTokens = 300, kVocabulary = 23;
            const View table = m.normal({kVocabulary, cols}, type, 1);
            const View ids = m.integers({kTokens}, DType::i32, 2, 0, kVocabulary - 2);
            const View y = m.make({kTokens, cols}, type), dy = m.normal({kTokens, cols}, type, 3);
            const View dtable = m.normal({kVocabulary, cols}, DType::f32, 4);
            const View fresh = m.make({kVocabulary, cols}, DType::f32);
            kernels.embedding.run({table, ids, y}, stream);
            kernels.embedding_backward.run({dy, ids, dtable, true}, stream);
            kernels.embedding_backward.run({dy, ids, fresh, false}, stream);
            return std::vector<Result>{{"y", y}, {"dtable", dtable}, {"fresh", fresh}};
          }};
}

Case dropout_case(DType type, int64_t cols, int64_t first) {
  return {with_type("dropout", type, cols),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View x = m.normal({11, cols}, type, 1), y = m.make({11, cols}, type);
            const View position = m.make({2}, DType::i64);
            set(position, 0, 4);
            set(position, 1, double(first));
            kernels.dropout.run({x, position, y, 0.25f, 99}, stream);
            return std::vector<Result>{{"y", y}};
          }};
}

Case observe_case(DType type, int64_t cols, int64_t bins, float bottom) {
  return {with_type(bottom < 0 ? "observe_both_signs" : "observe", type, bins),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View x = m.normal({300, cols}, type, 1);
            set(x, 5, NAN);
            set(x, 9, INFINITY);
            const View amax = m.zeros({cols}, DType::f32), ends = m.zeros({2}, DType::f32);
            const View histogram = m.zeros({bins}, DType::i64);
            Observe args{};
            args.x_TC = x;
            args.column_amax_C = amax;
            args.min_max = ends;
            args.histogram = histogram;
            args.histogram_top = 2.5f;
            args.histogram_bottom = bottom;
            kernels.observe.run(args, stream);
            return std::vector<Result>{{"amax", amax}, {"ends", ends}, {"histogram", histogram}};
          }};
}

Case sum_squares_case(DType type, int64_t count) {
  return {with_type("sum_squares", type, count),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const View x = m.normal({count}, type, 1, 2.0);
            const View out = m.zeros({2}, DType::i64), bad = m.zeros({2}, DType::i64);
            kernels.sum_squares.run({x, out.as<double>()}, stream);
            kernels.sum_squares.run({x, out.as<double>()}, stream);
            const View broken = m.normal({count}, type, 2);
            set(broken, 0, INFINITY);
            set(broken, count - 1, NAN);
            kernels.sum_squares.run({broken, bad.as<double>()}, stream);
            stream.wait();
            const View sum = m.make({1}, DType::f32), found = m.make({1}, DType::f32);
            set(sum, 0, out.as<double>()[0]);
            set(found, 0, bad.as<double>()[1]);
            return std::vector<Result>{{"sum", sum, 1e-7}, {"not finite", found}};
          }};
}

}  // namespace

std::vector<Case> rows_cases() {
  std::vector<Case> cases;
  for (const DType type : {DType::f32, DType::bf16}) {
    cases.push_back(column_sum_case(type, 150, 7, false));
    cases.push_back(column_sum_case(type, 150, 40, true));
    cases.push_back(scale_case(type, 7));
    cases.push_back(scale_case(type, 40));
    cases.push_back(embedding_case(type, 7));
    cases.push_back(embedding_case(type, 40));
    cases.push_back(dropout_case(type, 7, 3));
    cases.push_back(dropout_case(type, 40, 0));
    cases.push_back(observe_case(type, 7, 64, 0.0f));
    cases.push_back(observe_case(type, 40, 5000, -2.5f));
    cases.push_back(sum_squares_case(type, 7));
    cases.push_back(sum_squares_case(type, 8 * 1024));
  }
  cases.push_back(divide_case(7));
  cases.push_back(divide_case(200));
  return cases;
}

}  // namespace qat::test
