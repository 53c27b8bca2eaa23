// The loss of one token with the registers of simd.h: included once by each instruction set's file,
// which names the function QAT_LOSS_OF_ROW.
//
// Student and teacher go through the same operations, so that equal logits give a KL and a gradient
// of exactly zero. Sums run over short blocks in f32 and over the blocks in f64.
#pragma once

#include <math.h>

#include "kernels/cpu/head_loss_row.h"
#include "kernels/cpu/simd.h"

namespace qat::cpu {
namespace {

constexpr int64_t kSumBlock = 512;
constexpr double kLn2 = 0.693147180559945309417;
constexpr double kLog2E = 1.442695040888963407360;
constexpr float kNothing = -1e30f;  ///< a logit of no weight whose differences are still finite

float largest_of(const float* logits, int64_t count) {
  Floats top[2] = {load(logits), load(logits + kLanes)};
  for (int64_t j = 2 * kLanes; j < count; j += 2 * kLanes) {
    top[0] = larger(top[0], load(logits + j));
    top[1] = larger(top[1], load(logits + j + kLanes));
  }
  return largest(larger(top[0], top[1]));
}

/// A softmax of logits / temperature: weights 2^(z * factor - shift) / total.
struct Softmax {
  float factor, shift;
  double total;
  double log_sum() const { return (double(shift) + log2(total)) * kLn2; }
};

QAT_INLINE Floats weights(const float* logits, const Softmax& s) {
  return exp2_of(fused(load(logits), all(s.factor), all(-s.shift)));
}

Softmax softmax_of(const float* logits, int64_t count, float top, float temperature) {
  Softmax s{float(kLog2E / double(temperature)), 0.0f, 0.0};
  s.shift = top * s.factor;
  for (int64_t start = 0; start < count; start += kSumBlock) {
    const int64_t end = start + kSumBlock < count ? start + kSumBlock : count;
    Floats sums[2] = {all(0.0f), all(0.0f)};
    for (int64_t j = start; j < end; j += 2 * kLanes) {
      sums[0] = add(sums[0], weights(logits + j, s));
      sums[1] = add(sums[1], weights(logits + j + kLanes, s));
    }
    s.total += double(sum(add(sums[0], sums[1])));
  }
  return s;
}

/// The teacher's softmax, and the sum of its weights times (teacher - student logit).
Softmax teacher_of(const LossRow& row, int64_t count, double* difference) {
  Softmax s{float(kLog2E / double(row.temperature)), 0.0f, 0.0};
  s.shift = largest_of(row.teacher, count) * s.factor;
  *difference = 0.0;
  for (int64_t start = 0; start < count; start += kSumBlock) {
    const int64_t end = start + kSumBlock < count ? start + kSumBlock : count;
    Floats sums[2] = {all(0.0f), all(0.0f)}, differences = all(0.0f);
    for (int64_t j = start; j < end; j += 2 * kLanes) {
      const Floats a = weights(row.teacher + j, s), b = weights(row.teacher + j + kLanes, s);
      sums[0] = add(sums[0], a);
      sums[1] = add(sums[1], b);
      const float *t = row.teacher + j, *z = row.logits + j;
      differences = fused(a, subtract(load(t), load(z)), differences);
      differences = fused(b, subtract(load(t + kLanes), load(z + kLanes)), differences);
    }
    s.total += double(sum(add(sums[0], sums[1])));
    *difference += double(sum(differences));
  }
  return s;
}

/// What the gradient is made of: plain for ce, student and teacher (at the temperature) for kl.
struct Gradients {
  Softmax plain, student, teacher;
};

double weight_at(float logit, const Softmax& s) {
  return exp2(double(logit) * double(s.factor) - double(s.shift)) / s.total;
}

/// Writes element `target` exactly and leaves the others to the loops below.
double gradient_at_target(const LossRow& row, const Gradients& g, float logit, float teacher) {
  double value = double(row.ce_gradient) * (weight_at(logit, g.plain) - 1.0);
  if (row.teacher != nullptr)
    value +=
        double(row.kl_gradient) * (weight_at(logit, g.student) - weight_at(teacher, g.teacher));
  return value;
}

template <class T>
void write_gradient(const LossRow& row, int64_t count, const Gradients& g) {
  T* out = reinterpret_cast<T*>(row.logits);  // never ahead of what is still to be read
  const float logit = row.logits[row.target];
  const float teacher = row.teacher == nullptr ? 0.0f : row.teacher[row.target];
  const Floats ce = all(float(double(row.ce_gradient) / g.plain.total));
  if (row.teacher == nullptr) {
    for (int64_t j = 0; j < count; j += kLanes)
      store(out + j, multiply(ce, weights(row.logits + j, g.plain)));
  } else {
    const Floats kl = all(row.kl_gradient);
    const Floats student = all(float(1.0 / g.student.total));
    const Floats taught = all(float(1.0 / g.teacher.total));
    for (int64_t j = 0; j < count; j += kLanes) {
      const Floats p = multiply(weights(row.logits + j, g.student), student);
      const Floats q = multiply(weights(row.teacher + j, g.teacher), taught);
      Floats value = multiply(kl, subtract(p, q));
      if (row.ce_gradient != 0.0f) value = fused(ce, weights(row.logits + j, g.plain), value);
      store(out + j, value);
    }
  }
  out[row.target] = narrow<T>(float(gradient_at_target(row, g, logit, teacher)));
}

bool is_first_largest(const LossRow& row, float top) {
  if (!(row.logits[row.target] >= top)) return false;
  for (int64_t j = 0; j < row.target; ++j)
    if (row.logits[j] == top) return false;
  return true;
}

}  // namespace

LossValues QAT_LOSS_OF_ROW(const LossRow& row) {
  const int64_t count = padded_vocabulary(row.vocabulary);
  for (int64_t j = row.vocabulary; j < count; ++j) {
    row.logits[j] = kNothing;
    if (row.teacher != nullptr) row.teacher[j] = kNothing;
  }
  const float top = largest_of(row.logits, count);
  Gradients g{};
  g.plain = softmax_of(row.logits, count, top, 1.0f);
  LossValues values{g.plain.log_sum() - double(row.logits[row.target]), 0.0,
                    is_first_largest(row, top)};
  if (row.teacher != nullptr) {
    g.student =
        row.temperature == 1.0f ? g.plain : softmax_of(row.logits, count, top, row.temperature);
    double difference = 0.0;
    g.teacher = teacher_of(row, count, &difference);
    const double temperature = double(row.temperature);
    values.kl =
        temperature * temperature *
        (difference / g.teacher.total / temperature + g.student.log_sum() - g.teacher.log_sum());
  }
  if (row.gradient != nullptr) {
    if (*row.gradient == DType::bf16)
      write_gradient<BFloat16>(row, count, g);
    else
      write_gradient<float>(row, count, g);
  }
  return values;
}

}  // namespace qat::cpu
