// The CUDA backend's kernel table. A null entry is a kernel this backend does not have.
#include "kernels/cuda/cuda_kernels.h"

namespace qat::cuda {
namespace {

KernelTable fill_table() {
  KernelTable table;
  table.name = "cuda";
  table.cast = {cast, nullptr};
  table.add = {add, nullptr};
  table.fill = {fill, nullptr};
  table.embedding = {embedding, nullptr};
  table.embedding_backward = {embedding_backward, nullptr};
  table.rms_norm = {rms_norm, nullptr};
  table.rms_norm_backward = {rms_norm_backward, rms_norm_backward_scratch_bytes};
  table.matmul = {matmul, nullptr};
  table.matmul_int8 = {matmul_int8, matmul_int8_scratch_bytes};
  table.bias_add = {bias_add, nullptr};
  table.column_sum = {column_sum, column_sum_scratch_bytes};
  table.scale = {scale, nullptr};
  table.scale_axis = {scale_axis, nullptr};
  table.divide = {divide, nullptr};
  table.row_dot = {row_dot, nullptr};
  table.dropout = {dropout, nullptr};
  table.pack = {pack, nullptr};
  table.unpack = {unpack, nullptr};
  table.matmul_packed = {matmul_packed, matmul_packed_scratch_bytes};
  table.adapter_merge = {adapter_merge, adapter_merge_scratch_bytes};
  table.rope = {rope, nullptr};
  table.hadamard = {hadamard, hadamard_scratch_bytes};
  table.attention = {attention, nullptr};
  table.attention_backward = {attention_backward, attention_backward_scratch_bytes};
  table.attention_cached = {attention_cached, attention_cached_scratch_bytes};
  table.swiglu = {swiglu, nullptr};
  table.swiglu_backward = {swiglu_backward, nullptr};
  table.head_loss = {head_loss, head_loss_scratch_bytes};
  table.quantize = {quantize, nullptr};
  table.dequantize = {dequantize, nullptr};
  table.scale_gradient = {scale_gradient, nullptr};
  table.round_scale = {round_scale, nullptr};
  table.fake_quant = {fake_quant, nullptr};
  table.fake_quant_backward = {fake_quant_backward, nullptr};
  table.trained_scale_backward = {trained_scale_backward, nullptr};
  table.observe = {observe, nullptr};
  table.sum_squares = {sum_squares, nullptr};
  table.adamw = {adamw, nullptr};
  return table;
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable table = fill_table();
  return table;
}

}  // namespace qat::cuda
