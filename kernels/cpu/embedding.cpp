// Rows of a table by id, and the sum of gradients into the table.
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {

void embedding(const Embedding& args, Stream& stream) {
  const auto& [table, ids, y] = args;
  const int64_t cols = table.cols();
  over_ranges(stream, ids.count(), 1, cols, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token)
      vector_kernels().convert(at(table, ids.as<int32_t>()[token] * cols), table.dtype,
                               at(y, token * cols), y.dtype, cols);
  });
}

void embedding_backward(const EmbeddingBackward& args, Stream& stream) {
  const ConstView& dy = args.dy_TC;
  const int32_t* ids = args.ids_T.as<int32_t>();
  float* dtable = args.dtable_VC.as<float>();
  const int64_t cols = args.dtable_VC.cols(), tokens = args.ids_T.count();
  if (!args.accumulate)
    over_ranges(stream, args.dtable_VC.count(), 64, 1,
                [&](int64_t begin, int64_t end) { std::fill(dtable + begin, dtable + end, 0.0f); });
  // Split by columns: every thread adds its part of each row in token order.
  over_ranges(stream, cols, 64, tokens, [&](int64_t begin, int64_t end) {
    for (int64_t token = 0; token < tokens; ++token)
      vector_kernels().accumulate(dtable + ids[token] * cols + begin, at(dy, token * cols + begin),
                                  dy.dtype, end - begin);
  });
}

}  // namespace qat::cpu
