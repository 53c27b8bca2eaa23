// The language model head with its loss and gradients, a chunk of tokens at a time: two or three
// large products a chunk, and between them two visits of each row of logits (4 bytes an element
// read twice, the gradient written over them). A block takes a row.
//
// Student and teacher go through the same operations, so that equal logits give a KL and a gradient
// of exactly zero. Maxima and sums run together over a thread's elements, then over the threads in
// one order.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/lanes.h"

namespace qat::cuda {
namespace {

constexpr int64_t kMostChunk = 2048;  // tokens: dw (f32) is read and written once a chunk
constexpr int64_t kLogitsBytes = int64_t(512) << 20;
constexpr double kLn2 = 0.693147180559945309417;
constexpr double kLog2E = 1.442695040888963407360;
constexpr int kRowThreads = kBlockThreads;

/// What a token adds to the sums.
struct TokenLoss {
  double ce, kl;
  int32_t valid, hit;
};

struct Layout {
  int64_t chunk, stride;  ///< rows of logits, floats from one to the next
  size_t logits_bytes, token_bytes;
};

Layout layout_of(const HeadLoss& args) {
  Layout layout{};
  layout.stride = divided_up(args.w_VC.rows(), 32) * 32;
  const int64_t fitting = kLogitsBytes / (layout.stride * int64_t(sizeof(float)));
  layout.chunk = std::min(std::clamp(fitting / 128 * 128, int64_t(128), kMostChunk),
                          std::max(args.x_TC.rows(), int64_t(1)));
  layout.logits_bytes = size_t(layout.chunk * layout.stride) * sizeof(float);
  layout.token_bytes = size_t(divided_up(args.x_TC.rows() * int64_t(sizeof(TokenLoss)), 256) * 256);
  return layout;
}

/// Running softmax of z * factor in powers of two: weights 2^(z * factor - top) / total, and the
/// sum of the weights times something else.
struct Softmax {
  float top, total, mixed;
};

QAT_DEVICE void take(Softmax& s, float position, float other) {
  if (position > s.top) {
    const float shrink = exp2f(s.top - position);
    s.total *= shrink;
    s.mixed *= shrink;
    s.top = position;
  }
  const float weight = exp2f(position - s.top);
  s.total += weight;
  s.mixed = fmaf(weight, other, s.mixed);
}

/// The same softmax in every thread of a block; the order of the threads' sums is fixed.
QAT_DEVICE Softmax reduced(const Softmax& own, Team block) {
  Softmax all{};
  all.top = block.reduce(own.top, Largest{});
  const float shrink = exp2f(own.top - all.top);
  all.total = block.reduce(own.total * shrink, Sum{});
  all.mixed = block.reduce(own.mixed * shrink, Sum{});
  return all;
}

QAT_DEVICE double log_sum(const Softmax& s) {
  return (double(s.top) + log2(double(s.total))) * kLn2;
}

struct RowsJob {
  float *logits, *teacher;  ///< teacher may be null
  const int32_t* targets;
  const float* inv_tokens;
  float* nll;  ///< may be null
  TokenLoss* tokens;
  int64_t vocabulary, stride;
  float ce_weight, kl_weight, temperature;
};

struct SmallestIndex {
  QAT_DEVICE int operator()(int a, int b) const { return a < b ? a : b; }
};

/// Writes four neighbours of a row. Gradients in bf16 are packed from the row's beginning.
QAT_DEVICE void put_gradients(float* row, int64_t j, const float (&v)[4], float) {
  for (int k = 0; k < 4; ++k) row[j + k] = v[k];
}
QAT_DEVICE void put_gradients(float* row, int64_t j, const float (&v)[4], BFloat16) {
  auto* pairs = reinterpret_cast<uint32_t*>(row) + j / 2;
  pairs[0] = pack_bf16(v[0], v[1]);
  pairs[1] = pack_bf16(v[2], v[3]);
}

template <class T>
QAT_DEVICE void clear_row(float* row, int64_t stride) {
  const float nothing[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int64_t j = threadIdx.x * 4; j < stride; j += kRowThreads * 4)
    put_gradients(row, j, nothing, T{});
}

/// Losses of a row; its gradient (as T) replaces the logits where it is wanted.
template <class T, bool kGradient>
__global__ void __launch_bounds__(kRowThreads) visit_rows(RowsJob job) {
  const int64_t i = blockIdx.x, count = job.vocabulary;
  float* row = job.logits + i * job.stride;
  float* taught = job.teacher ? job.teacher + i * job.stride : nullptr;
  const int32_t target = job.targets[i];
  if (target < 0) {
    if (threadIdx.x == 0) {
      job.tokens[i] = TokenLoss{};
      if (job.nll) job.nll[i] = 0.0f;
    }
    if constexpr (kGradient) clear_row<T>(row, job.stride);
    return;
  }
  const Team block{kRowThreads};
  const float plain_factor = float(kLog2E), factor = float(kLog2E / double(job.temperature));
  Softmax plain{-INFINITY, 0.0f, 0.0f}, student = plain, teacher = plain;
  int first = 0x7FFFFFFF;  // where this thread's largest logit is
  float largest = -INFINITY;
  for (int64_t j = threadIdx.x; j < count; j += kRowThreads) {
    const float z = row[j];
    take(plain, z * plain_factor, 0.0f);
    if (z > largest) {
      largest = z;
      first = int(j);
    }
    if (!taught) continue;
    const float t = taught[j];
    take(student, z * factor, 0.0f);
    take(teacher, t * factor, t - z);
  }
  plain = reduced(plain, block);
  const float top = block.reduce(largest, Largest{});
  const int winner = block.reduce(largest == top ? first : 0x7FFFFFFF, SmallestIndex{});
  const float logit = row[target];
  if (taught) {
    student = reduced(student, block);
    teacher = reduced(teacher, block);
  }
  if (threadIdx.x == 0) {
    TokenLoss loss{log_sum(plain) - double(logit), 0.0, 1, int32_t(winner == target)};
    if (taught) {
      const double temperature = double(job.temperature);
      loss.kl = temperature * temperature *
                (double(teacher.mixed) / double(teacher.total) / temperature + log_sum(student) -
                 log_sum(teacher));
    }
    job.tokens[i] = loss;
    if (job.nll) job.nll[i] = float(loss.ce);
  }
  if constexpr (!kGradient) return;
  const float inv_tokens = job.inv_tokens[0];
  const float ce = job.ce_weight * inv_tokens, ce_share = ce / plain.total;
  // kl is temperature^2 times a divergence whose gradient is 1 / temperature times (p - q).
  const float kl = job.kl_weight * inv_tokens * job.temperature;
  const float student_share = 1.0f / student.total, teacher_share = 1.0f / teacher.total;
  __syncthreads();  // everyone has read the target's logit
  for (int64_t start = 0; start < job.stride; start += kRowThreads * 4) {
    const int64_t j = start + threadIdx.x * 4;
    float gradient[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int k = 0; k < 4; ++k) {
      if (j + k >= count) continue;
      const float z = row[j + k];
      float value = 0.0f;
      if (taught) {
        const float p = exp2f(z * factor - student.top) * student_share;
        const float q = exp2f(taught[j + k] * factor - teacher.top) * teacher_share;
        value = kl * (p - q);
      }
      if (ce != 0.0f && j + k != target)
        value = fmaf(ce_share, exp2f(z * plain_factor - plain.top), value);
      if (ce != 0.0f && j + k == target) {
        // The one element that is nearly a difference of equals.
        const double p = exp2(double(z) * double(plain_factor) - double(plain.top));
        value = float(double(value) + double(ce) * (p / double(plain.total) - 1.0));
      }
      gradient[k] = value;
    }
    // Gradients of half the size end where the reads of this turn began, or before: a turn writes
    // only behind what every thread has read.
    __syncthreads();
    if (j < job.stride) put_gradients(row, j, gradient, T{});
  }
}

__global__ void __launch_bounds__(kBlockThreads)
    add_tokens(const TokenLoss* tokens, int64_t count, float* sums) {
  double ce = 0, kl = 0, valid = 0, hits = 0;
  for (int64_t t = threadIdx.x; t < count; t += kBlockThreads) {
    ce += tokens[t].ce;
    kl += tokens[t].kl;
    valid += tokens[t].valid;
    hits += tokens[t].hit;
  }
  const Team block{kBlockThreads};
  ce = block.reduce(ce, Sum{});
  kl = block.reduce(kl, Sum{});
  valid = block.reduce(valid, Sum{});
  hits = block.reduce(hits, Sum{});
  if (threadIdx.x != 0) return;
  sums[0] = float(ce);
  sums[1] = float(kl);
  sums[2] = float(valid);
  sums[3] = float(hits);
}

const std::byte* row_of(const ConstView& x, int64_t row) {
  return x.data + size_t(row * x.cols()) * size_of(x.dtype);
}

void compute_logits(const ConstView& x, const ConstView& w, int64_t t0, int64_t rows,
                    int64_t stride, float* logits, Stream& stream) {
  const int64_t hidden = x.cols();
  gemm({x.dtype, DType::f32, MatmulForm::nt, rows, w.rows(), hidden, hidden, hidden, stride},
       row_of(x, t0), w.data, logits, stream);
}

void add_gradients(const HeadLoss& args, const Layout& layout, int64_t t0, int64_t rows,
                   const float* gradient, bool accumulate_dw, Stream& stream) {
  const DType type = args.x_TC.dtype;
  const int64_t hidden = args.x_TC.cols(), vocabulary = args.w_VC.rows();
  const int64_t stride = layout.stride * int64_t(sizeof(float) / size_of(type));
  if (args.dx_TC) {
    std::byte* dx = args.dx_TC.data + size_t(t0 * hidden) * size_of(type);
    gemm({type, type, MatmulForm::nn, rows, hidden, vocabulary, stride, hidden, hidden}, gradient,
         args.w_VC.data, dx, stream);
  }
  if (args.dw_VC)
    gemm({type, DType::f32, MatmulForm::tn, vocabulary, hidden, rows, stride, hidden, hidden,
          accumulate_dw},
         gradient, row_of(args.x_TC, t0), args.dw_VC.data, stream);
}

}  // namespace

size_t head_loss_scratch_bytes(const HeadLoss& args) {
  const Layout layout = layout_of(args);
  return layout.token_bytes + layout.logits_bytes * (args.teacher_x_TC ? 2 : 1);
}

void head_loss(const HeadLoss& args, Stream& stream) {
  const Layout layout = layout_of(args);
  const int64_t tokens = args.x_TC.rows();
  auto* losses = reinterpret_cast<TokenLoss*>(args.scratch.data);
  auto* logits = reinterpret_cast<float*>(args.scratch.data + layout.token_bytes);
  float* teacher = args.teacher_x_TC ? logits + layout.chunk * layout.stride : nullptr;
  const bool wants_gradient = bool(args.dx_TC) || bool(args.dw_VC);
  for (int64_t t0 = 0; t0 < tokens; t0 += layout.chunk) {
    const int64_t rows = std::min(layout.chunk, tokens - t0);
    compute_logits(args.x_TC, args.w_VC, t0, rows, layout.stride, logits, stream);
    if (teacher != nullptr)
      compute_logits(args.teacher_x_TC, args.teacher_w_VC, t0, rows, layout.stride, teacher,
                     stream);
    const RowsJob job{logits,
                      teacher,
                      args.targets_T.as<int32_t>() + t0,
                      args.inv_tokens.as<float>(),
                      args.nll_T ? args.nll_T.as<float>() + t0 : nullptr,
                      losses + t0,
                      args.w_VC.rows(),
                      layout.stride,
                      args.ce_weight,
                      args.kl_weight,
                      args.temperature};
    with_float(args.x_TC.dtype, [&](auto zero) {
      using T = decltype(zero);
      launch(wants_gradient ? visit_rows<T, true> : visit_rows<T, false>, Blocks{rows}, kRowThreads,
             0, stream, job);
    });
    if (wants_gradient)
      add_gradients(args, layout, t0, rows, logits, t0 > 0 || args.accumulate_dw, stream);
  }
  launch(add_tokens, Blocks{1}, kBlockThreads, 0, stream, losses, tokens, args.sums.as<float>());
}

}  // namespace qat::cuda
