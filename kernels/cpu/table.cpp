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
  return table;
}

}  // namespace

const KernelTable& cpu_kernels() {
  static const KernelTable table = fill_table();
  return table;
}

}  // namespace qat
