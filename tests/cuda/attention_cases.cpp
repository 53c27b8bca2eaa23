// Cases of attention: forward and backward over documents, and over caches.
#include <cmath>

#include "tests/cuda/cases.h"

namespace qat::test {
namespace {

struct Heads {
  int heads, kv_heads, head_dim;
};

Case attention_case(DType type, const Heads& h, int64_t sequences, int64_t sequence,
                    bool documents) {
  return {
      std::string("attention_") + name_of(type) + "_heads" + std::to_string(h.heads) + "_" +
          std::to_string(h.kv_heads) + "_dim" + std::to_string(h.head_dim) + "_tokens" +
          std::to_string(sequence) + (documents ? "_documents" : ""),
      [=](const KernelTable& kernels, Stream& stream, Memory& m) {
        const int64_t tokens = sequences * sequence, wide = h.heads * h.head_dim;
        const int64_t narrow = h.kv_heads * h.head_dim;
        const View q = m.normal({tokens, wide}, type, 1), k = m.normal({tokens, narrow}, type, 2);
        const View v = m.normal({tokens, narrow}, type, 3);
        const View first = documents ? m.zeros({tokens}, DType::i32) : View{};
        // Documents of several lengths, one of a single token.
        for (int64_t t = 0, start = 0; documents && t < tokens; ++t) {
          if (t % sequence == 0) start = 0;
          if (t % sequence % 37 == 36 || t % sequence == 5) start = t % sequence;
          set(first, t, double(start));
        }
        const View y = m.make({tokens, wide}, type), lse = m.make({tokens, h.heads}, DType::f32);
        const float scale = 1.0f / std::sqrt(float(h.head_dim));
        Attention forward{q,  k,       v,          first,      y,        lse,
                          {}, h.heads, h.kv_heads, h.head_dim, sequence, scale};
        m.give_scratch(kernels.attention, forward);
        kernels.attention.run(forward, stream);
        const View dy = m.normal({tokens, wide}, type, 4), dq = m.make({tokens, wide}, type);
        const View dk = m.make({tokens, narrow}, type), dv = m.make({tokens, narrow}, type);
        AttentionBackward backward{q,  k,  v,  first,   y,          lse,        dy,       dq,
                                   dk, dv, {}, h.heads, h.kv_heads, h.head_dim, sequence, scale};
        m.give_scratch(kernels.attention_backward, backward);
        kernels.attention_backward.run(backward, stream);
        const double near = type == DType::bf16 ? 8e-3 : 3e-6;
        return std::vector<Result>{{"y", y, near},
                                   {"lse", lse, type == DType::bf16 ? 1e-5 : 1e-6},
                                   {"dq", dq, near},
                                   {"dk", dk, near},
                                   {"dv", dv, near}};
      }};
}

struct CacheType {
  DType numbers;  ///< of a cache without a grid
  int bits;       ///< 0: no grid
  Range range;
  ScaleType scale_type;
};

Case cached_case(DType type, const Heads& h, int64_t tokens, const CacheType& cache) {
  return {std::string("attention_cached_") + name_of(type) + "_tokens" + std::to_string(tokens) +
              "_dim" + std::to_string(h.head_dim) + "_" + name_of(cache.numbers) + "_bits" +
              std::to_string(cache.bits) + "_range" + std::to_string(int(cache.range)),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            constexpr int64_t kRows = 140, kLength = 129;
            const int64_t wide = h.heads * h.head_dim, narrow = h.kv_heads * h.head_dim;
            const QuantSpec spec{cache.bits == 0 ? 8 : cache.bits,
                                 Per::group,
                                 16,
                                 cache.range,
                                 ScaleRule::min_max,
                                 cache.scale_type};
            const bool coded = cache.bits > 0;
            const DType stored = coded ? kv_code_dtype(cache.bits) : cache.numbers;
            const Shape rows{kRows, coded ? kv_code_bytes(cache.bits, narrow) : narrow};
            const Shape grids{kRows, spec.groups(narrow)};
            const bool zeros = coded && !spec.symmetric();
            AttentionCached args{};
            args.k_cache = m.zeros(rows, stored);
            args.v_cache = m.zeros(rows, stored);
            if (coded) args.k_scale = m.zeros(grids, kv_scale_dtype(cache.scale_type));
            if (coded) args.v_scale = m.zeros(grids, kv_scale_dtype(cache.scale_type));
            if (zeros) args.k_zero = m.zeros(grids, DType::i8);
            if (zeros) args.v_zero = m.zeros(grids, DType::i8);
            args.heads = h.heads;
            args.kv_heads = h.kv_heads;
            args.head_dim = h.head_dim;
            args.scale = 0.3f;
            args.grid = spec;
            std::vector<Result> results;
            const View length = m.zeros({1}, DType::i32);
            // A prompt, then a token, or a few.
            for (const int64_t count : {kLength, tokens}) {
              const auto seed = unsigned(count);
              args.q_THD = m.normal({count, wide}, type, seed + 1);
              args.k_TGD = m.normal({count, narrow}, type, seed + 2);
              args.v_TGD = m.normal({count, narrow}, type, seed + 3);
              args.length = length;
              const View y = m.make({count, wide}, type);
              args.y_THD = y;
              m.give_scratch(kernels.attention_cached, args);
              kernels.attention_cached.run(args, stream);
              stream.wait();
              set(length, 0, double(kLength));
              results.push_back({"y", y, type == DType::bf16 ? 4e-3 : 3e-6});
            }
            results.push_back({"k cache", args.k_cache});
            results.push_back({"v cache", args.v_cache});
            if (coded) results.push_back({"k scale", args.k_scale});
            if (zeros) results.push_back({"v zero", args.v_zero});
            return results;
          }};
}

}  // namespace

std::vector<Case> attention_cases() {
  std::vector<Case> cases;
  for (const DType type : {DType::f32, DType::bf16}) {
    cases.push_back(attention_case(type, {2, 1, 8}, 2, 70, true));
    cases.push_back(attention_case(type, {2, 2, 64}, 1, 130, false));
    cases.push_back(attention_case(type, {3, 1, 80}, 1, 100, true));
    cases.push_back(attention_case(type, {1, 1, 12}, 1, 33, false));
    for (const CacheType& cache : {CacheType{DType::f32, 0, Range::full, ScaleType::f32},
                                   CacheType{DType::bf16, 0, Range::full, ScaleType::f32},
                                   CacheType{DType::i8, 8, Range::full, ScaleType::f16},
                                   CacheType{DType::i8, 8, Range::asymmetric, ScaleType::bf16},
                                   CacheType{DType::u8, 4, Range::full, ScaleType::f32}})
      cases.push_back(cached_case(type, {2, 1, 16}, cache.bits == 8 ? 1 : 3, cache));
  }
  return cases;
}

}  // namespace qat::test
