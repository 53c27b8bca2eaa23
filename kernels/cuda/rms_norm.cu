// RMS normalisation and its gradient. A team of threads takes a row; what it reads a second time
// lies in the caches. Device memory traffic: forward x once, y once; backward dy, x (and residual)
// once, dx once, and the partial sums of dweight.
//
// With n = x * rstd and g = dy * weight:
//   dx = rstd * (g - n * mean(g * n)) + residual,   dweight = sum over rows of dy * n.
// Each team sums dweight over its rows; the teams of a block, and then the blocks, are added in
// order. How rows are dealt to teams depends on the shape alone.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

template <class T, int kWidth>
__global__ void __launch_bounds__(kBlockThreads)
    norm_rows(const T* x, const float* weight, T* y, float* rstd, int64_t rows, int64_t cols,
              float eps, Team team) {
  const int64_t row = int64_t(blockIdx.x) * (kBlockThreads / team.size) + team.index();
  const T* from = x + (row < rows ? row : 0) * cols;
  float squares = 0.0f;
  for (int64_t i = team.rank() * kWidth; i < cols; i += team.size * kWidth) {
    float v[kWidth];
    load(from + i, v);
    for (int k = 0; k < kWidth; ++k) squares += v[k] * v[k];
  }
  const float mean = team.reduce(squares, Sum{}) / float(cols);
  const float scale = 1.0f / sqrtf(mean + eps);
  if (row >= rows) return;
  if (team.rank() == 0) rstd[row] = scale;
  for (int64_t i = team.rank() * kWidth; i < cols; i += team.size * kWidth) {
    float v[kWidth], w[kWidth];
    load(from + i, v);
    load(weight + i, w);
    for (int k = 0; k < kWidth; ++k) v[k] = v[k] * scale * w[k];
    store(y + row * cols + i, v);
  }
}

template <class T>
struct BackwardRows {
  const T *dy, *x;
  const float *weight, *rstd;
  const T* residual;  ///< may be null
  T* dx;
  float* partial;  ///< null: dweight is not wanted; else one row of sums a block
  int64_t rows, cols, rows_per_team;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kBlockThreads)
    norm_rows_backward(BackwardRows<T> job, Team team) {
  // Sums of dy * n by column; a column of a team belongs to one thread.
  float* sums = reinterpret_cast<float*>(dynamic_shared()) + team.index() * job.cols;
  const int64_t teams = kBlockThreads / team.size;
  const int64_t me = int64_t(blockIdx.x) * teams + team.index();
  if (job.partial)
    for (int64_t i = team.rank() * kWidth; i < job.cols; i += team.size * kWidth)
      for (int k = 0; k < kWidth; ++k) sums[i + k] = 0.0f;
  for (int64_t r = 0; r < job.rows_per_team; ++r) {
    const int64_t wanted = me * job.rows_per_team + r;
    const bool real = wanted < job.rows;
    const int64_t row = real ? wanted : 0, start = row * job.cols;
    const float rstd = job.rstd[row];
    float products = 0.0f;
    for (int64_t i = team.rank() * kWidth; i < job.cols; i += team.size * kWidth) {
      float v[kWidth], d[kWidth], w[kWidth];
      load(job.x + start + i, v);
      load(job.dy + start + i, d);
      load(job.weight + i, w);
      for (int k = 0; k < kWidth; ++k) products += d[k] * w[k] * (v[k] * rstd);
    }
    const float mean = team.reduce(products, Sum{}) / float(job.cols);
    if (!real) continue;
    for (int64_t i = team.rank() * kWidth; i < job.cols; i += team.size * kWidth) {
      float v[kWidth], d[kWidth], w[kWidth], extra[kWidth];
      load(job.x + start + i, v);
      load(job.dy + start + i, d);
      load(job.weight + i, w);
      if (job.residual) load(job.residual + start + i, extra);
      for (int k = 0; k < kWidth; ++k) {
        const float normal = v[k] * rstd;
        v[k] = rstd * (d[k] * w[k] - normal * mean);
        if (job.residual) v[k] += extra[k];
        if (job.partial) sums[i + k] += d[k] * normal;
      }
      store(job.dx + start + i, v);
    }
  }
  if (!job.partial) return;
  __syncthreads();
  const float* first = reinterpret_cast<const float*>(dynamic_shared());
  for (int64_t i = threadIdx.x; i < job.cols; i += kBlockThreads) {
    float total = first[i];
    for (int64_t t = 1; t < teams; ++t) total += first[t * job.cols + i];
    job.partial[int64_t(blockIdx.x) * job.cols + i] = total;
  }
}

constexpr int64_t kMostBackwardBlocks = 256;
constexpr size_t kMostShared = 200 << 10;

/// How rows are dealt to teams.
struct Dealing {
  Team team;
  int64_t blocks, rows_per_team;
};

Dealing dealing_of(int64_t rows, int64_t cols) {
  Dealing dealing{};
  dealing.team = team_for(cols, cols % kWide == 0);
  const int64_t in_block = kBlockThreads / dealing.team.size;
  dealing.blocks = std::min(kMostBackwardBlocks, divided_up(rows, in_block));
  dealing.rows_per_team = rows > 0 ? divided_up(rows, dealing.blocks * in_block) : 0;
  return dealing;
}

}  // namespace

void rms_norm(const RmsNorm& args, Stream& stream) {
  const int64_t cols = args.weight_C.count(), rows = args.x_TC.count() / cols;
  const bool wide = fits_wide(cols, args.x_TC.data, args.y_TC.data, args.weight_C.data);
  const Team team = team_for(cols, cols % kWide == 0);
  with_float(args.x_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(wide ? norm_rows<T, kWide> : norm_rows<T, 1>, team_blocks(rows, team), kBlockThreads, 0,
           stream, args.x_TC.as<T>(), args.weight_C.as<float>(), args.y_TC.as<T>(),
           args.rstd_T.as<float>(), rows, cols, args.eps, team);
  });
}

size_t rms_norm_backward_scratch_bytes(const RmsNormBackward& args) {
  const int64_t cols = args.weight_C.count();
  return size_t(dealing_of(args.x_TC.count() / cols, cols).blocks * cols) * sizeof(float);
}

void rms_norm_backward(const RmsNormBackward& args, Stream& stream) {
  const int64_t cols = args.weight_C.count(), rows = args.x_TC.count() / cols;
  const bool wide =
      fits_wide(cols, args.x_TC.data, args.dy_TC.data, args.dx_TC.data, args.weight_C.data) &&
      (!args.residual_TC || fits_wide(cols, args.residual_TC.data));
  const Dealing dealing = dealing_of(rows, cols);
  const size_t in_block = size_t(kBlockThreads / dealing.team.size);
  const size_t shared = args.dweight_C ? in_block * size_t(cols) * sizeof(float) : 0;
  if (shared > kMostShared)
    throw std::logic_error("rms_norm_backward: rows of " + std::to_string(cols) +
                           " elements are longer than shared memory holds");
  float* partial = args.dweight_C ? args.scratch.as<float>() : nullptr;
  with_float(args.x_TC.dtype, [&](auto zero) {
    using T = decltype(zero);
    const BackwardRows<T> job{args.dy_TC.as<T>(),
                              args.x_TC.as<T>(),
                              args.weight_C.as<float>(),
                              args.rstd_T.as<float>(),
                              args.residual_TC ? args.residual_TC.as<T>() : nullptr,
                              args.dx_TC.as<T>(),
                              partial,
                              rows,
                              cols,
                              dealing.rows_per_team};
    launch(wide ? norm_rows_backward<T, kWide> : norm_rows_backward<T, 1>, Blocks{dealing.blocks},
           kBlockThreads, shared, stream, job, dealing.team);
  });
  if (!args.dweight_C) return;
  float* out = args.dweight_C.as<float>();
  elementwise(stream, cols, false, FoldRows{partial, out, dealing.blocks, cols, args.accumulate});
}

}  // namespace qat::cuda
