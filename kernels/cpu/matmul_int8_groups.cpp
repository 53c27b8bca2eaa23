// Blocks of outputs whose packed weights stay in the second-level cache, strips of tokens past
// them. One task packs for itself and waits for nobody, as in gemm_native.
#include "kernels/cpu/matmul_int8_groups.h"

#include <omp.h>

#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/workspace.h"

namespace qat::cpu {
namespace {

constexpr int64_t kTaskTokens = 512;
constexpr int64_t kPackedBytes = 512 << 10;

class Product {
 public:
  explicit Product(const MatmulInt8Groups& args)
      : args_(args),
        tokens_(args.a_TK.rows()),
        inputs_(args.a_TK.cols()),
        outputs_(args.b_OK.rows()),
        groups_(args.scale_OG.count() / outputs_) {
    panels_ = std::clamp(kPackedBytes / (inputs_ * kInt8Panel), int64_t{1}, all_panels());
    down_ = (tokens_ + kTaskTokens - 1) / kTaskTokens;
    across_ = (all_panels() + panels_ - 1) / panels_;
  }

  int64_t tasks() const { return down_ * across_; }

  void run(int64_t task) const {
    const int64_t t0 = task / across_ * kTaskTokens, p0 = task % across_ * panels_;
    const int64_t t1 = std::min(tokens_, t0 + kTaskTokens);
    const int64_t panels = std::min(panels_, all_panels() - p0);
    static thread_local Workspace space;
    const int64_t code_bytes = inputs_ * kInt8Panel, scale_count = groups_ * kInt8Panel;
    std::byte* memory =
        space.get(size_t(panels * (code_bytes + scale_count * int64_t(sizeof(float)))) +
                  size_t(kInt8Rows * groups_) * sizeof(int32_t));
    auto* codes = reinterpret_cast<uint8_t*>(memory);  // first: whole cache lines are read
    auto* scales = reinterpret_cast<float*>(codes + panels * code_bytes);
    auto* start = reinterpret_cast<int32_t*>(scales + panels * scale_count);
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t o0 = (p0 + p) * kInt8Panel;
      pack_int8_panel(args_.b_OK.as<int8_t>(), inputs_, o0, outputs_of(p0 + p),
                      codes + p * code_bytes);
      pack_scales(o0, outputs_of(p0 + p), scales + p * scale_count);
    }
    for (int64_t t = t0; t < t1; t += kInt8Rows) {
      const int64_t rows = std::min(kInt8Rows, t1 - t);
      const int8_t* a = args_.a_TK.as<int8_t>() + t * inputs_;
      for (int64_t r = 0; r < rows; ++r)
        int8_group_starts(a + r * inputs_, groups_, inputs_ / groups_, start + r * groups_);
      for (int64_t p = 0; p < panels; ++p)
        multiply_int8_tile(
            tile(t, rows, p0 + p, {codes + p * code_bytes, scales + p * scale_count}, a, start));
    }
  }

 private:
  int64_t all_panels() const { return (outputs_ + kInt8Panel - 1) / kInt8Panel; }
  int64_t outputs_of(int64_t panel) const {
    return std::min(kInt8Panel, outputs_ - panel * kInt8Panel);
  }
  void pack_scales(int64_t o0, int64_t count, float* scales) const {
    const float* from = args_.scale_OG.as<float>() + o0 * groups_;
    for (int64_t g = 0; g < groups_; ++g)
      for (int64_t o = 0; o < kInt8Panel; ++o)
        scales[g * kInt8Panel + o] = o < count ? from[o * groups_ + g] : 0.0f;
  }
  Int8Tile tile(int64_t t, int64_t rows, int64_t panel, const Int8Panel& packed, const int8_t* a,
                const int32_t* start) const {
    const bool per_token = args_.scale_T.count() == tokens_;
    Int8Tile tile{};
    tile.panel = packed;
    tile.a = a;
    tile.start = start;
    tile.scale_T = args_.scale_T.as<float>() + t * (per_token ? 1 : groups_);
    tile.y =
        args_.y_TO.data + size_t(t * outputs_ + panel * kInt8Panel) * size_of(args_.y_TO.dtype);
    tile.rows = rows;
    tile.outputs = outputs_of(panel);
    tile.inputs = inputs_;
    tile.groups = groups_;
    tile.group = inputs_ / groups_;
    tile.y_stride = outputs_;
    tile.per_token = per_token;
    tile.y_type = args_.y_TO.dtype;
    return tile;
  }

  const MatmulInt8Groups& args_;
  int64_t tokens_, inputs_, outputs_, groups_;
  int64_t panels_, down_, across_;
};

}  // namespace

void matmul_int8_groups(const MatmulInt8Groups& args, Stream& stream) {
  const Product product(args);
  const int threads = omp_in_parallel() ? 1 : stream.threads();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t task = 0; task < product.tasks(); ++task) product.run(task);
}

}  // namespace qat::cpu
