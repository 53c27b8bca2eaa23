// The language model head with its loss and gradients, a chunk of tokens at a time: two or three
// large products a chunk, and between them one visit of each row of logits while it is in cache.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/head_loss_row.h"
#include "kernels/cpu/isa.h"

namespace qat::cpu {
namespace {

/// Tokens a chunk: dw (f32) is read and written once for each, so few chunks; logits in f32, so not
/// too large ones (100 MB for 49152 x 512).
constexpr int64_t kChunk = 512;

LossOfRow loss_of_row() {
  if (isa() >= Isa::avx512) return loss_of_row_avx512;
  return isa() == Isa::avx2 ? loss_of_row_avx2 : loss_of_row_sse2;
}

/// What a token adds to the sums; kept a token apart so that they are added in token order.
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
  layout.chunk = std::min(kChunk, args.x_TC.rows());
  layout.stride = padded_vocabulary(args.w_VC.rows());
  layout.logits_bytes = size_t(layout.chunk * layout.stride) * sizeof(float);
  layout.token_bytes = size_t(args.x_TC.rows()) * sizeof(TokenLoss);
  return layout;
}

const std::byte* row_of(const ConstView& x, int64_t row) {
  return x.data + size_t(row * x.cols()) * size_of(x.dtype);
}

/// logits[rows][stride] = x . wT for the rows from t0.
void compute_logits(const ConstView& x, const ConstView& w, int64_t t0, int64_t rows,
                    int64_t stride, float* logits, int threads) {
  const int64_t hidden = x.cols();
  gemm({x.dtype, DType::f32, MatmulForm::nt, rows, w.rows(), hidden, hidden, hidden, stride},
       row_of(x, t0), w.data, logits, threads);
}

/// Losses of the rows of a chunk; their gradients by the logits replace the logits if wanted.
void visit_rows(const HeadLoss& args, const Layout& layout, int64_t t0, int64_t rows, float* logits,
                float* teacher, TokenLoss* tokens, int threads) {
  const bool wants_gradient = bool(args.dx_TC) || bool(args.dw_VC);
  const float inv_tokens = args.inv_tokens.as<float>()[0];
  const LossOfRow visit = loss_of_row();
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
  for (int64_t i = 0; i < rows; ++i) {
    float* row_logits = logits + i * layout.stride;
    const int32_t target = args.targets_T.as<int32_t>()[t0 + i];
    TokenLoss& token = tokens[t0 + i];
    token = {};
    if (target < 0) {
      if (wants_gradient) std::memset(row_logits, 0, size_t(layout.stride) * sizeof(float));
    } else {
      LossRow row{};
      row.logits = row_logits;
      row.teacher = teacher == nullptr ? nullptr : teacher + i * layout.stride;
      row.vocabulary = args.w_VC.rows();
      row.target = target;
      row.temperature = args.temperature;
      row.ce_gradient = args.ce_weight * inv_tokens;
      // kl is temperature^2 times a divergence whose gradient is 1 / temperature times (p - q).
      row.kl_gradient = args.kl_weight * inv_tokens * args.temperature;
      row.gradient = wants_gradient ? &args.x_TC.dtype : nullptr;
      const LossValues values = visit(row);
      token = {values.ce, values.kl, 1, values.hit ? 1 : 0};
    }
    if (args.nll_T) args.nll_T.as<float>()[t0 + i] = float(token.ce);
  }
}

/// dx of a chunk, and its share of dw.
void add_gradients(const HeadLoss& args, const Layout& layout, int64_t t0, int64_t rows,
                   const float* gradient, bool accumulate_dw, int threads) {
  const DType type = args.x_TC.dtype;
  const int64_t hidden = args.x_TC.cols(), vocabulary = args.w_VC.rows();
  const int64_t stride = layout.stride * int64_t(sizeof(float) / size_of(type));
  if (args.dx_TC) {
    std::byte* dx = args.dx_TC.data + size_t(t0 * hidden) * size_of(type);
    gemm({type, type, MatmulForm::nn, rows, hidden, vocabulary, stride, hidden, hidden}, gradient,
         args.w_VC.data, dx, threads);
  }
  if (args.dw_VC)
    gemm({type, DType::f32, MatmulForm::tn, vocabulary, hidden, rows, stride, hidden, hidden,
          accumulate_dw},
         gradient, row_of(args.x_TC, t0), args.dw_VC.data, threads);
}

void write_sums(const HeadLoss& args, const TokenLoss* tokens) {
  double ce = 0, kl = 0, valid = 0, hits = 0;
  for (int64_t t = 0; t < args.x_TC.rows(); ++t) {
    ce += tokens[t].ce;
    kl += tokens[t].kl;
    valid += tokens[t].valid;
    hits += tokens[t].hit;
  }
  float* sums = args.sums.as<float>();
  sums[0] = float(ce);
  sums[1] = float(kl);
  sums[2] = float(valid);
  sums[3] = float(hits);
}

}  // namespace

size_t head_loss_scratch_bytes(const HeadLoss& args) {
  const Layout layout = layout_of(args);
  return layout.token_bytes + layout.logits_bytes * (args.teacher_x_TC ? 2 : 1);
}

void head_loss(const HeadLoss& args, Stream& stream) {
  const Layout layout = layout_of(args);
  const int threads = stream.threads();
  auto* tokens = reinterpret_cast<TokenLoss*>(args.scratch.data);
  auto* logits = reinterpret_cast<float*>(args.scratch.data + layout.token_bytes);
  float* teacher = args.teacher_x_TC ? logits + layout.chunk * layout.stride : nullptr;
  const int32_t* targets = args.targets_T.as<int32_t>();
  bool dw_written = args.accumulate_dw;
  for (int64_t t0 = 0; t0 < args.x_TC.rows(); t0 += layout.chunk) {
    const int64_t rows = std::min(layout.chunk, args.x_TC.rows() - t0);
    if (std::all_of(targets + t0, targets + t0 + rows, [](int32_t target) { return target < 0; })) {
      // Nothing of the chunk counts (a prompt, say): no product is needed.
      std::fill(tokens + t0, tokens + t0 + rows, TokenLoss{});
      if (args.nll_T) std::fill_n(args.nll_T.as<float>() + t0, rows, 0.0f);
      if (args.dx_TC) {
        const size_t row_bytes = size_t(args.dx_TC.cols()) * size_of(args.dx_TC.dtype);
        std::memset(args.dx_TC.data + size_t(t0) * row_bytes, 0, size_t(rows) * row_bytes);
      }
      continue;
    }
    compute_logits(args.x_TC, args.w_VC, t0, rows, layout.stride, logits, threads);
    if (teacher != nullptr)
      compute_logits(args.teacher_x_TC, args.teacher_w_VC, t0, rows, layout.stride, teacher,
                     threads);
    visit_rows(args, layout, t0, rows, logits, teacher, tokens, threads);
    if (args.dx_TC || args.dw_VC)
      add_gradients(args, layout, t0, rows, logits, dw_written, threads);
    dw_written = true;
  }
  if (args.dw_VC && !dw_written) std::memset(args.dw_VC.data, 0, args.dw_VC.bytes());
  write_sums(args, tokens);
}

}  // namespace qat::cpu
