// Conversion, addition, rotary embedding and SwiGLU.
#include "kernels/cpu/vector/lanes.h"
#include "kernels/cpu/vector/vector_kernels.h"

namespace qat::cpu::QAT_LANES {
namespace {

template <class From, class To>
void convert_run(const void* x, void* y, int64_t count) {
  const From* from = static_cast<const From*>(x);
  To* to = static_cast<To*>(y);
  over_lanes(count, [=](int64_t i, auto part) { store(to + i, load(from + i, part), part); });
}

void convert(const void* x, DType x_type, void* y, DType y_type, int64_t count) {
  if (x_type == DType::f32 && y_type == DType::bf16) convert_run<float, BFloat16>(x, y, count);
  if (x_type == DType::bf16 && y_type == DType::f32) convert_run<BFloat16, float>(x, y, count);
  if (x_type == DType::f32 && y_type == DType::f32) convert_run<float, float>(x, y, count);
  if (x_type == DType::bf16 && y_type == DType::bf16) convert_run<BFloat16, BFloat16>(x, y, count);
}

template <class T>
void add_run(const T* a, const T* b, T* y, int64_t count) {
  over_lanes(count, [=](int64_t i, auto part) {
    store(y + i, load(a + i, part) + load(b + i, part), part);
  });
}

void add(const void* a, const void* b, void* y, DType type, int64_t count) {
  if (type == DType::f32)
    add_run(static_cast<const float*>(a), static_cast<const float*>(b), static_cast<float*>(y),
            count);
  else
    add_run(static_cast<const BFloat16*>(a), static_cast<const BFloat16*>(b),
            static_cast<BFloat16*>(y), count);
}

template <class T>
void accumulate_run(float* out, const T* x, int64_t count) {
  over_lanes(count, [=](int64_t i, auto part) {
    store(out + i, load(out + i, part) + load(x + i, part), part);
  });
}

void accumulate(float* out, const void* x, DType type, int64_t count) {
  if (type == DType::f32)
    accumulate_run(out, static_cast<const float*>(x), count);
  else
    accumulate_run(out, static_cast<const BFloat16*>(x), count);
}

template <class T>
void accumulate_product_run(float* out, const T* x, const T* times, int64_t count) {
  over_lanes(count, [=](int64_t i, auto part) {
    store(out + i, load(out + i, part) + load(x + i, part) * load(times + i, part), part);
  });
}

void accumulate_product(float* out, const void* x, const void* times, DType type, int64_t count) {
  if (type == DType::f32)
    accumulate_product_run(out, static_cast<const float*>(x), static_cast<const float*>(times),
                           count);
  else
    accumulate_product_run(out, static_cast<const BFloat16*>(x),
                           static_cast<const BFloat16*>(times), count);
}

template <class T>
void scale_run(const T* x, T* y, const float* factor, float by, const float* bias, int64_t count) {
  const Lanes every = all(by), nothing = all(0.0f);
  over_lanes(count, [=](int64_t i, auto part) {
    const Lanes f = factor ? load(factor + i, part) : every;
    const Lanes b = bias ? load(bias + i, part) : nothing;
    store(y + i, load(x + i, part) * f + b, part);
  });
}

void scale(const void* x, void* y, DType type, const float* factor, float by, const float* bias,
           int64_t count) {
  if (type == DType::f32)
    scale_run(static_cast<const float*>(x), static_cast<float*>(y), factor, by, bias, count);
  else
    scale_run(static_cast<const BFloat16*>(x), static_cast<BFloat16*>(y), factor, by, bias, count);
}

template <class T>
void add_bias_rows(T* y, const float* bias, int64_t rows, int64_t cols) {
  for (int64_t row = 0; row < rows; ++row, y += cols)
    over_lanes(cols, [=](int64_t i, auto part) {
      store(y + i, load(y + i, part) + load(bias + i, part), part);
    });
}

void add_bias(void* y, DType type, const float* bias, int64_t rows, int64_t cols) {
  if (type == DType::f32)
    add_bias_rows(static_cast<float*>(y), bias, rows, cols);
  else
    add_bias_rows(static_cast<BFloat16*>(y), bias, rows, cols);
}

template <class T>
void rope_tokens(const RopeJob& job) {
  const T* x = static_cast<const T*>(job.x);
  T* y = static_cast<T*>(job.y);
  const int half = job.head_dim / 2;
  const Lanes sign = all(job.sign);
  for (int64_t token = 0; token < job.tokens; ++token) {
    const float* cosines = job.cos_sin + int64_t(job.positions[token]) * job.head_dim;
    const float* sines = cosines + half;
    for (int64_t head = 0; head < job.heads; ++head, x += job.head_dim, y += job.head_dim)
      over_lanes(half, [=](int64_t i, auto part) {
        const Lanes cosine = load(cosines + i, part), sine = sign * load(sines + i, part);
        const Lanes first = load(x + i, part), second = load(x + half + i, part);
        store(y + i, first * cosine - second * sine, part);
        store(y + half + i, second * cosine + first * sine, part);
      });
  }
}

void rope(const RopeJob& job) {
  if (job.type == DType::f32)
    rope_tokens<float>(job);
  else
    rope_tokens<BFloat16>(job);
}

template <class T>
void swiglu_run(const T* gate, const T* up, T* y, int64_t count) {
  over_lanes(count, [=](int64_t i, auto part) {
    const Lanes g = load(gate + i, part);
    store(y + i, g * sigmoid(g) * load(up + i, part), part);
  });
}

void swiglu(const void* gate, const void* up, void* y, DType type, int64_t count) {
  if (type == DType::f32)
    swiglu_run(static_cast<const float*>(gate), static_cast<const float*>(up),
               static_cast<float*>(y), count);
  else
    swiglu_run(static_cast<const BFloat16*>(gate), static_cast<const BFloat16*>(up),
               static_cast<BFloat16*>(y), count);
}

template <class T>
void swiglu_backward_run(const T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t count) {
  const Lanes one = all(1.0f);
  over_lanes(count, [=](int64_t i, auto part) {
    const Lanes d = load(dy + i, part), g = load(gate + i, part), u = load(up + i, part);
    const Lanes s = sigmoid(g);
    store(dgate + i, d * u * (s * (one + g * (one - s))), part);
    store(dup + i, d * (g * s), part);
  });
}

void swiglu_backward(const void* dy, const void* gate, const void* up, void* dgate, void* dup,
                     DType type, int64_t count) {
  if (type == DType::f32)
    swiglu_backward_run(static_cast<const float*>(dy), static_cast<const float*>(gate),
                        static_cast<const float*>(up), static_cast<float*>(dgate),
                        static_cast<float*>(dup), count);
  else
    swiglu_backward_run(static_cast<const BFloat16*>(dy), static_cast<const BFloat16*>(gate),
                        static_cast<const BFloat16*>(up), static_cast<BFloat16*>(dgate),
                        static_cast<BFloat16*>(dup), count);
}

}  // namespace

void fill_elementwise(VectorKernels& table) {
  table.convert = convert;
  table.add = add;
  table.accumulate = accumulate;
  table.accumulate_product = accumulate_product;
  table.scale = scale;
  table.add_bias = add_bias;
  table.rope = rope;
  table.swiglu = swiglu;
  table.swiglu_backward = swiglu_backward;
}

}  // namespace qat::cpu::QAT_LANES
