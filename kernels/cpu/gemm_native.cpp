// The blocking around the strips: a block of b is packed by all threads, then strips of a run over
// it.
#include "kernels/cpu/gemm_native.h"

#include <omp.h>

#include <algorithm>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/workspace.h"

namespace qat::cpu {
namespace {

constexpr int64_t kPanel = 32;
constexpr int64_t kBlockN = 768;   ///< packed b of a block: 1 MB of bf16
constexpr int64_t kBlockM = 1024;  ///< rows whose partial sums are kept when K has several blocks
constexpr int64_t kGroupPanels = 12;  ///< fewest panels a task takes when columns are split too

int64_t blocks(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

const GemmEngine& engine_for(DType in) {
  const Isa level = isa();
  if (in == DType::bf16 && level == Isa::amx) return gemm_engine_amx();
  if (in == DType::bf16 && level >= Isa::avx512_bf16) return gemm_engine_bf16();
  if (level >= Isa::avx512) return gemm_engine_avx512();
  return level == Isa::avx2 ? gemm_engine_avx2() : gemm_engine_sse2();
}

Workspace& block_workspace() {
  static thread_local Workspace workspace;
  return workspace;
}

Workspace& strip_workspace() {
  static thread_local Workspace workspace;
  return workspace;
}

/// How the shape is cut. Only k_block and block_m touch the order of sums, and neither depends on
/// the number of threads.
struct Plan {
  const GemmEngine& engine;
  int64_t k_block, block_n, block_m;
  bool partial_sums;
};

Plan plan_for(const Gemm& g) {
  const GemmEngine& engine = engine_for(g.in);
  const int64_t k_blocks = blocks(g.k, engine.k_block);
  const int64_t k_block = std::min(engine.k_block, blocks(blocks(g.k, k_blocks), kPanel) * kPanel);
  const bool partial_sums = k_blocks > 1 && g.out == DType::bf16;
  return {engine, k_block, std::min(kBlockN, blocks(g.n, kPanel) * kPanel),
          partial_sums ? std::min(kBlockM, blocks(g.m, kPanel) * kPanel) : g.m, partial_sums};
}

}  // namespace

void gemm_native(const Gemm& g, const void* a, const void* b, void* c, int threads) {
  const Plan plan = plan_for(g);
  const GemmEngine& engine = plan.engine;
  if (omp_in_parallel()) threads = 1;
  const size_t panel_bytes =
      size_t(blocks(plan.k_block, engine.k_step) * engine.k_step * kPanel * engine.element_bytes);
  const size_t packed_bytes = panel_bytes * size_t(plan.block_n / kPanel);
  const size_t sums_bytes =
      plan.partial_sums ? size_t(plan.block_m * plan.block_n) * sizeof(float) : 0;
  std::byte* packed = block_workspace().get(packed_bytes + sums_bytes);
  auto* sums = plan.partial_sums ? reinterpret_cast<float*>(packed + packed_bytes) : nullptr;

#pragma omp parallel num_threads(threads)
  {
    std::byte* temp = strip_workspace().get(engine.temp_bytes);
    for (int64_t n0 = 0; n0 < g.n; n0 += plan.block_n) {
      const int64_t panels = blocks(std::min(plan.block_n, g.n - n0), kPanel);
      for (int64_t block_m0 = 0; block_m0 < g.m; block_m0 += plan.block_m) {
        const int64_t block_rows = std::min(plan.block_m, g.m - block_m0);
        const int64_t strips = blocks(block_rows, kStripRows);
        // With few strips the panels are shared out as well; each tile is computed alike either
        // way.
        const int64_t wanted =
            std::clamp<int64_t>(blocks(3 * threads, strips), 1, blocks(panels, kGroupPanels));
        const int64_t group = blocks(panels, wanted), groups = blocks(panels, group);
        for (int64_t k0 = 0; k0 < g.k; k0 += plan.k_block) {
          const int64_t k = std::min(plan.k_block, g.k - k0);
          const size_t stride =
              size_t(blocks(k, engine.k_step) * engine.k_step * kPanel * engine.element_bytes);
#pragma omp for schedule(static)
          for (int64_t p = 0; p < panels; ++p)
            engine.pack_panel(g, b, n0 + p * kPanel, k0, k, packed + size_t(p) * stride, temp);
#pragma omp for schedule(dynamic)
          for (int64_t task = 0; task < strips * groups; ++task) {
            const int64_t row = task / groups * kStripRows, first = task % groups * group;
            GemmStrip strip{};
            strip.shape = &g;
            strip.a = a;
            strip.c = c;
            strip.panels = packed + size_t(first) * stride;
            strip.n0 = n0 + first * kPanel;
            strip.panel_count = std::min(group, panels - first);
            strip.m0 = block_m0 + row;
            strip.rows = std::min(kStripRows, block_rows - row);
            strip.k0 = k0;
            strip.k = k;
            strip.first = k0 == 0;
            strip.last = k0 + k == g.k;
            strip.sums = sums == nullptr ? nullptr : sums + row * plan.block_n + first * kPanel;
            strip.sums_stride = plan.block_n;
            strip.temp = temp;
            engine.run_strip(strip);
          }
        }
      }
    }
  }
}

}  // namespace qat::cpu
