// RMS normalisation and its gradient, row by row.
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

template <class T>
void norm_rows(const NormJob& job) {
  const T* x = static_cast<const T*>(job.x);
  T* y = static_cast<T*>(job.y);
  const float* weight = job.weight;
  for (int64_t row = 0; row < job.rows; ++row, x += job.cols, y += job.cols) {
    Lanes squares[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
    over_lanes_in_fours(job.cols, [&](int64_t i, auto part, int k) {
      const Lanes value = load(x + i, part);
      squares[k] = squares[k] + value * value;
    });
    const float mean = sum(squares) / float(job.cols);
    const float rstd = 1.0f / __builtin_sqrtf(mean + job.eps);
    job.rstd[row] = rstd;
    const Lanes scale = all(rstd);
    over_lanes(job.cols, [=](int64_t i, auto part) {
      store(y + i, load(x + i, part) * scale * load(weight + i, part), part);
    });
  }
}

void rms_norm(const NormJob& job) {
  if (job.type == DType::f32)
    norm_rows<float>(job);
  else
    norm_rows<BFloat16>(job);
}

// With n = x * rstd and g = dy * weight:
//   dx = rstd * (g - n * mean(g * n)) + residual,   dweight = sum over rows of dy * n.
template <class T>
void norm_backward_rows(const NormBackwardJob& job) {
  const T* dy = static_cast<const T*>(job.dy);
  const T* x = static_cast<const T*>(job.x);
  const T* residual = static_cast<const T*>(job.residual);
  T* dx = static_cast<T*>(job.dx);
  const float* weight = job.weight;
  float* dweight = job.dweight;
  over_lanes(job.cols, [=](int64_t i, auto part) { store(dweight + i, all(0.0f), part); });
  for (int64_t row = 0; row < job.rows; ++row) {
    const Lanes rstd = all(job.rstd[row]);
    Lanes products[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
    over_lanes_in_fours(job.cols, [&](int64_t i, auto part, int k) {
      const Lanes normal = load(x + i, part) * rstd;
      const Lanes gradient = load(dy + i, part) * load(weight + i, part);
      products[k] = products[k] + gradient * normal;
    });
    const Lanes mean = all(sum(products) / float(job.cols));
    over_lanes(job.cols, [=](int64_t i, auto part) {
      const Lanes normal = load(x + i, part) * rstd;
      const Lanes upstream = load(dy + i, part);
      Lanes result = rstd * (upstream * load(weight + i, part) - normal * mean);
      if (residual != nullptr) result = result + load(residual + i, part);
      store(dweight + i, load(dweight + i, part) + upstream * normal, part);
      store(dx + i, result, part);
    });
    dy += job.cols;
    x += job.cols;
    dx += job.cols;
    if (residual != nullptr) residual += job.cols;
  }
}

void rms_norm_backward(const NormBackwardJob& job) {
  if (job.type == DType::f32)
    norm_backward_rows<float>(job);
  else
    norm_backward_rows<BFloat16>(job);
}

}  // namespace

void fill_norm(VectorKernels& table) {
  table.rms_norm = rms_norm;
  table.rms_norm_backward = rms_norm_backward;
}

}  // namespace qat::cpu::QAT_LANES
