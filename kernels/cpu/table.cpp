// The CPU's kernel table. A null entry is a kernel this backend does not have.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa.h"

namespace qat {
namespace {

KernelTable fill_table() {
  cpu::isa();  // reads QAT_ISA and tells oneDNN before any kernel can run
  KernelTable table;
  table.name = "cpu";
  table.matmul = {cpu::matmul, nullptr};
  table.matmul_int8 = {cpu::matmul_int8, cpu::matmul_int8_scratch_bytes};
  // Tiles of AMX hold 64 columns: sums of smaller groups do not come out of them fast enough.
  if (cpu::has_exact_int8() && cpu::isa() < cpu::Isa::amx)
    table.matmul_int8_groups = {cpu::matmul_int8_groups, nullptr};
  table.cast = {cpu::cast, nullptr};
  table.add = {cpu::add, nullptr};
  table.fill = {cpu::fill, nullptr};
  table.embedding = {cpu::embedding, nullptr};
  table.embedding_backward = {cpu::embedding_backward, nullptr};
  table.rms_norm = {cpu::rms_norm, nullptr};
  table.rms_norm_backward = {cpu::rms_norm_backward, cpu::rms_norm_backward_scratch_bytes};
  table.bias_add = {cpu::bias_add, nullptr};
  table.column_sum = {cpu::column_sum, cpu::column_sum_scratch_bytes};
  table.scale = {cpu::scale, nullptr};
  table.scale_axis = {cpu::scale_axis, nullptr};
  table.divide = {cpu::divide, nullptr};
  table.row_dot = {cpu::row_dot, nullptr};
  table.dropout = {cpu::dropout, nullptr};
  table.pack = {cpu::pack, nullptr};
  table.unpack = {cpu::unpack, nullptr};
  table.matmul_packed = {cpu::matmul_packed, cpu::matmul_packed_scratch_bytes};
  table.adapter_merge = {cpu::adapter_merge, cpu::adapter_merge_scratch_bytes};
  table.rope = {cpu::rope, nullptr};
  table.hadamard = {cpu::hadamard, cpu::hadamard_scratch_bytes};
  table.swiglu = {cpu::swiglu, nullptr};
  table.swiglu_backward = {cpu::swiglu_backward, nullptr};
  table.quantize = {cpu::quantize, nullptr};
  table.dequantize = {cpu::dequantize, nullptr};
  table.scale_gradient = {cpu::scale_gradient, nullptr};
  table.round_scale = {cpu::round_scale, nullptr};
  table.fake_quant = {cpu::fake_quant, nullptr};
  table.fake_quant_backward = {cpu::fake_quant_backward, nullptr};
  table.trained_scale_backward = {cpu::trained_scale_backward,
                                  cpu::trained_scale_backward_scratch_bytes};
  table.observe = {cpu::observe, nullptr};
  table.sum_squares = {cpu::sum_squares, nullptr};
  table.adamw = {cpu::adamw, nullptr};
  table.attention = {cpu::attention, cpu::attention_scratch_bytes};
  table.attention_backward = {cpu::attention_backward, cpu::attention_backward_scratch_bytes};
  table.attention_cached = {cpu::attention_cached, cpu::attention_cached_scratch_bytes};
  table.head_loss = {cpu::head_loss, cpu::head_loss_scratch_bytes};
  return table;
}

}  // namespace

const KernelTable& cpu_kernels() {
  static const KernelTable table = fill_table();
  return table;
}

}  // namespace qat
