// RMS normalisation and its gradient. Gradients of the weight are summed by chunks of 64 rows, then
// over the chunks in order.
#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu {
namespace {

constexpr int64_t kChunkRows = 64;

int64_t chunks_of(int64_t rows) {
  return (rows + kChunkRows - 1) / kChunkRows;
}

}  // namespace

void rms_norm(const RmsNorm& args, Stream& stream) {
  const int64_t cols = args.weight_C.count(), rows = args.x_TC.count() / cols;
  over_ranges(stream, rows, 1, cols, [&](int64_t begin, int64_t end) {
    NormJob job;
    job.x = at(args.x_TC, begin * cols);
    job.weight = args.weight_C.as<float>();
    job.y = at(args.y_TC, begin * cols);
    job.rstd = args.rstd_T.as<float>() + begin;
    job.type = args.x_TC.dtype;
    job.rows = end - begin;
    job.cols = cols;
    job.eps = args.eps;
    vector_kernels().rms_norm(job);
  });
}

size_t rms_norm_backward_scratch_bytes(const RmsNormBackward& args) {
  const int64_t cols = args.weight_C.count();
  return size_t(chunks_of(args.x_TC.count() / cols) * cols) * sizeof(float);
}

void rms_norm_backward(const RmsNormBackward& args, Stream& stream) {
  const int64_t cols = args.weight_C.count(), rows = args.x_TC.count() / cols;
  const int64_t chunks = chunks_of(rows);
  float* partial = args.scratch.as<float>();
  over_ranges(stream, chunks, 1, kChunkRows * cols, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunkRows;
      NormBackwardJob job;
      job.dy = at(args.dy_TC, first * cols);
      job.x = at(args.x_TC, first * cols);
      job.weight = args.weight_C.as<float>();
      job.rstd = args.rstd_T.as<float>() + first;
      job.residual = args.residual_TC ? at(args.residual_TC, first * cols) : nullptr;
      job.dx = at(args.dx_TC, first * cols);
      job.dweight = partial + chunk * cols;
      job.type = args.x_TC.dtype;
      job.rows = std::min(kChunkRows, rows - first);
      job.cols = cols;
      vector_kernels().rms_norm_backward(job);
    }
  });
  if (!args.dweight_C) return;
  float* dweight = args.dweight_C.as<float>();
  if (!args.accumulate) std::fill_n(dweight, cols, 0.0f);
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    vector_kernels().accumulate(dweight, partial + chunk * cols, DType::f32, cols);
}

}  // namespace qat::cpu
