// Every kernel of the CUDA backend, one function each, and the scratch bytes of those that need
// some. Semantics are those of the argument structs in kernels/kernels.h. A stream is one of the
// backend's own (context.h); work is queued, nothing waits.
#pragma once

#include <cstddef>

#include "kernels/kernels.h"

namespace qat::cuda {

void cast(const Cast& args, Stream& stream);
void add(const Add& args, Stream& stream);
void fill(const Fill& args, Stream& stream);
void embedding(const Embedding& args, Stream& stream);
void embedding_backward(const EmbeddingBackward& args, Stream& stream);
void rms_norm(const RmsNorm& args, Stream& stream);
void rms_norm_backward(const RmsNormBackward& args, Stream& stream);
void matmul(const Matmul& args, Stream& stream);
void matmul_int8(const MatmulInt8& args, Stream& stream);
void bias_add(const BiasAdd& args, Stream& stream);
void column_sum(const ColumnSum& args, Stream& stream);
void scale(const Scale& args, Stream& stream);
void scale_axis(const ScaleAxis& args, Stream& stream);
void divide(const Divide& args, Stream& stream);
void row_dot(const RowDot& args, Stream& stream);
void dropout(const Dropout& args, Stream& stream);
void pack(const Pack& args, Stream& stream);
void unpack(const Unpack& args, Stream& stream);
void matmul_packed(const MatmulPacked& args, Stream& stream);
void adapter_merge(const AdapterMerge& args, Stream& stream);
void rope(const Rope& args, Stream& stream);
void hadamard(const Hadamard& args, Stream& stream);
void attention(const Attention& args, Stream& stream);
void attention_backward(const AttentionBackward& args, Stream& stream);
void attention_cached(const AttentionCached& args, Stream& stream);
void swiglu(const SwiGlu& args, Stream& stream);
void swiglu_backward(const SwiGluBackward& args, Stream& stream);
void head_loss(const HeadLoss& args, Stream& stream);
void quantize(const Quantize& args, Stream& stream);
void dequantize(const Dequantize& args, Stream& stream);
void scale_gradient(const ScaleGradient& args, Stream& stream);
void round_scale(const RoundScale& args, Stream& stream);
void fake_quant(const FakeQuant& args, Stream& stream);
void fake_quant_backward(const FakeQuantBackward& args, Stream& stream);
void trained_scale_backward(const TrainedScaleBackward& args, Stream& stream);
void observe(const Observe& args, Stream& stream);
void sum_squares(const SumSquares& args, Stream& stream);
void adamw(const AdamW& args, Stream& stream);

size_t rms_norm_backward_scratch_bytes(const RmsNormBackward& args);
size_t matmul_int8_scratch_bytes(const MatmulInt8& args);
size_t column_sum_scratch_bytes(const ColumnSum& args);
size_t matmul_packed_scratch_bytes(const MatmulPacked& args);
size_t hadamard_scratch_bytes(const Hadamard& args);
size_t adapter_merge_scratch_bytes(const AdapterMerge& args);
size_t attention_backward_scratch_bytes(const AttentionBackward& args);
size_t attention_cached_scratch_bytes(const AttentionCached& args);
size_t head_loss_scratch_bytes(const HeadLoss& args);

/// The table of all of them.
const KernelTable& kernels();

}  // namespace qat::cuda
