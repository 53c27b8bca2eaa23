// Rows of a table by id, and the sum of gradients into the table. Forward reads and writes each
// row once. Backward: the block of an id's first token adds that id's rows in token order, the
// CPU's order, so nothing is sorted and nothing added atomically; looking for equal ids reads all
// ids once a block, from the caches.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class From, class To>
struct RowsRun {
  const From* table;
  const int32_t* ids;
  To* y;
  int64_t cols;
  template <int kWidth>
  QAT_DEVICE void run(int64_t i) const {
    float v[kWidth];
    load(table + int64_t(ids[i / cols]) * cols + i % cols, v);
    store(y + i, v);
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kBlockThreads)
    add_rows(const T* dy, const int32_t* ids, float* dtable, int64_t tokens, int64_t cols) {
  __shared__ int32_t matches[kBlockThreads];
  const int64_t token = blockIdx.x;
  const int32_t id = ids[token];
  int earlier = 0;
  for (int64_t t = threadIdx.x; t < token; t += kBlockThreads) earlier |= int(ids[t] == id);
  if (__syncthreads_or(earlier)) return;  // another block's
  const int64_t column = (int64_t(blockIdx.y) * kBlockThreads + threadIdx.x) * kWidth;
  float* out = dtable + int64_t(id) * cols + column;
  const bool real = column < cols;
  float total[kWidth] = {};
  if (real) load(out, total);
  for (int64_t first = token; first < tokens; first += kBlockThreads) {
    const int64_t mine = first + threadIdx.x;
    const int match = int(mine < tokens && ids[mine] == id);
    if (!__syncthreads_or(match)) continue;
    matches[threadIdx.x] = match;
    __syncthreads();
    for (int t = 0; t < kBlockThreads; ++t) {
      if (!matches[t] || !real) continue;
      float v[kWidth];
      load(dy + (first + t) * cols + column, v);
      for (int k = 0; k < kWidth; ++k) total[k] += v[k];
    }
  }
  if (real) store(out, total);
}

}  // namespace

void embedding(const Embedding& args, Stream& stream) {
  const int64_t cols = args.table_VC.cols();
  const bool wide = fits_wide(cols, args.table_VC.data, args.y_TC.data);
  with_float(args.table_VC.dtype, [&](auto from) {
    with_float(args.y_TC.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      elementwise(stream, args.ids_T.count() * cols, wide,
                  RowsRun<From, To>{args.table_VC.as<From>(), args.ids_T.as<int32_t>(),
                                    args.y_TC.as<To>(), cols});
    });
  });
}

void embedding_backward(const EmbeddingBackward& args, Stream& stream) {
  const int64_t cols = args.dtable_VC.cols(), tokens = args.ids_T.count();
  if (!args.accumulate) fill({args.dtable_VC, 0.0f}, stream);
  const bool wide = fits_wide(cols, args.dy_TC.data, args.dtable_VC.data);
  const Blocks blocks{tokens, divided_up(cols, kBlockThreads * (wide ? kWide : 1))};
  with_float(args.dy_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(wide ? add_rows<T, kWide> : add_rows<T, 1>, blocks, kBlockThreads, 0, stream,
           args.dy_TC.as<T>(), args.ids_T.as<int32_t>(), args.dtable_VC.as<float>(), tokens, cols);
  });
}

}  // namespace qat::cuda
