// The blocking around the strips. The result is cut into rectangles, one task of one thread each; a
// task packs what it needs for itself and waits for nobody. (Threads that pack together and meet at
// barriers are no faster when the machine is quiet, and a hundred times slower when it is not.)
#include "kernels/cpu/gemm_native.h"

#include <omp.h>

#include <algorithm>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/workspace.h"

namespace qat::cpu {
namespace {

constexpr int64_t kPanel = 32;     ///< rows and columns of a tile
constexpr int64_t kBlockN = 768;   ///< columns of b packed at a time: 1 MB of bf16
constexpr int64_t kBlockM = 1024;  ///< rows whose partial sums are kept when K has several blocks

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

/// How the result is cut into tasks, in tiles. Every tile is computed alike wherever it falls: only
/// the blocks of K decide the order of sums, and they follow from the shape.
struct Tasks {
  int64_t rows, cols;  ///< tiles a task takes
  int64_t down, across;
};

/// The cut that should take least time: an even share of the arithmetic for each thread, against
/// rows of tasks that pack b again and columns of tasks that read (or pack) a again.
Tasks cut(const Gemm& g, int threads) {
  constexpr double kFlopsPerByte =
      100;                        // arithmetic in the time a byte takes to come and be packed
  constexpr double kLarge = 4e9;  // a product worth cutting finer, so that no thread is late
  const double flops = 2.0 * double(g.m) * double(g.n) * double(g.k);
  const int64_t tiles_m = blocks(g.m, kPanel), tiles_n = blocks(g.n, kPanel);
  const int64_t wanted = threads > 1 && flops / threads > kLarge ? 4 * threads : threads;
  const double bytes_a = double(g.m) * double(g.k) * double(size_of(g.in));
  const double bytes_b = double(g.n) * double(g.k) * double(size_of(g.in));
  Tasks best{tiles_m, tiles_n, 1, 1};
  double least = 1e300;
  for (int64_t down = 1; down <= std::min(wanted, tiles_m); ++down) {
    Tasks t{};
    t.rows = blocks(tiles_m, down);
    t.cols = blocks(tiles_n, std::min(tiles_n, std::max<int64_t>(1, wanted / down)));
    t.down = blocks(tiles_m, t.rows);
    t.across = blocks(tiles_n, t.cols);
    const double turns = double(blocks(t.down * t.across, threads));
    const double arithmetic = turns * flops * double(t.rows * t.cols) / double(tiles_m * tiles_n);
    const double bytes = double(t.down) * bytes_b + double(t.across) * bytes_a;
    const double time = arithmetic + bytes * kFlopsPerByte / threads;
    if (time < least) {
      least = time;
      best = t;
    }
  }
  return best;
}

/// A rectangle of the result, in elements.
struct Rectangle {
  int64_t m0, n0, rows, cols;
};

/// One product as a task sees it.
class Task {
 public:
  Task(const Gemm& g, const void* a, const void* b, void* c)
      : g_(g), a_(a), b_(b), c_(c), engine_(engine_for(g.in)) {
    const int64_t k_blocks = blocks(g.k, engine_.k_block);
    k_block_ = std::min(engine_.k_block, blocks(blocks(g.k, k_blocks), kPanel) * kPanel);
    partial_sums_ = k_blocks > 1 && g.out == DType::bf16;
  }

  void run(const Rectangle& part) const {
    static thread_local Workspace temp_space, block_space;
    std::byte* temp = temp_space.get(engine_.temp_bytes);
    const int64_t block_n = std::min(kBlockN, blocks(part.cols, kPanel) * kPanel);
    const int64_t block_m = partial_sums_ ? std::min(kBlockM, part.rows) : part.rows;
    const size_t packed_bytes = size_t(block_n / kPanel) * panel_bytes(k_block_);
    const int64_t sums = partial_sums_ ? blocks(block_m, kPanel) * kPanel * block_n : 0;
    std::byte* packed = block_space.get(packed_bytes + size_t(sums) * sizeof(float));
    auto* partial = partial_sums_ ? reinterpret_cast<float*>(packed + packed_bytes) : nullptr;
    for (int64_t n = 0; n < part.cols; n += block_n)
      for (int64_t m = 0; m < part.rows; m += block_m)
        run_block({part.m0 + m, part.n0 + n, std::min(block_m, part.rows - m),
                   std::min(block_n, part.cols - n)},
                  packed, partial, temp);
  }

 private:
  size_t panel_bytes(int64_t k) const {
    return size_t(blocks(k, engine_.k_step) * engine_.k_step * kPanel * engine_.element_bytes);
  }

  /// Columns that fit packed b, rows that fit the partial sums: all of K, block after block.
  void run_block(const Rectangle& part, std::byte* packed, float* partial, std::byte* temp) const {
    const int64_t panels = blocks(part.cols, kPanel);
    for (int64_t k0 = 0; k0 < g_.k; k0 += k_block_) {
      const int64_t k = std::min(k_block_, g_.k - k0);
      for (int64_t p = 0; p < panels; ++p)
        engine_.pack_panel(g_, b_, part.n0 + p * kPanel, k0, k, packed + size_t(p) * panel_bytes(k),
                           temp);
      for (int64_t row = 0; row < part.rows; row += kStripRows) {
        GemmStrip strip{};
        strip.shape = &g_;
        strip.a = a_;
        strip.c = c_;
        strip.panels = packed;
        strip.n0 = part.n0;
        strip.panel_count = panels;
        strip.m0 = part.m0 + row;
        strip.rows = std::min(kStripRows, part.rows - row);
        strip.k0 = k0;
        strip.k = k;
        strip.first = k0 == 0;
        strip.last = k0 + k == g_.k;
        strip.sums = partial == nullptr ? nullptr : partial + row * panels * kPanel;
        strip.sums_stride = panels * kPanel;
        strip.temp = temp;
        engine_.run_strip(strip);
      }
    }
  }

  const Gemm& g_;
  const void* a_;
  const void* b_;
  void* c_;
  const GemmEngine& engine_;
  int64_t k_block_;
  bool partial_sums_;
};

}  // namespace

void gemm_native(const Gemm& g, const void* a, const void* b, void* c, int threads) {
  if (omp_in_parallel()) threads = 1;
  const Tasks tasks = cut(g, threads);
  const Task task(g, a, b, c);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks.down * tasks.across; ++i) {
    const int64_t m0 = i / tasks.across * tasks.rows * kPanel;
    const int64_t n0 = i % tasks.across * tasks.cols * kPanel;
    task.run(
        {m0, n0, std::min(tasks.rows * kPanel, g.m - m0), std::min(tasks.cols * kPanel, g.n - n0)});
  }
}

}  // namespace qat::cpu
