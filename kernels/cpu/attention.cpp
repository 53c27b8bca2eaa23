// Causal attention with grouped heads and documents, forward and backward. Keys and values are
// packed once, then blocks of queries (forward) or whole heads (backward) are tasks of one thread
// each, and heads that share keys are summed in their order: no bit depends on the number of
// threads.
#include <omp.h>

#include "kernels/cpu/attention_engine.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/workspace.h"

namespace qat::cpu {
namespace {

std::byte* thread_temp(size_t bytes) {
  static thread_local Workspace workspace;
  return workspace.get(bytes);
}

/// What Attention and AttentionBackward have in common.
template <class Args>
AttentionWork work_of(const Args& args) {
  AttentionWork w{};
  w.type = args.q_THD.dtype;
  w.q = args.q_THD.data;
  w.k = args.k_TGD.data;
  w.v = args.v_TGD.data;
  w.first = args.first_T.template as<int32_t>();
  w.heads = args.heads;
  w.kv_heads = args.kv_heads;
  w.head_dim = args.head_dim;
  w.sequence = args.sequence;
  const int64_t per_token = w.heads * w.head_dim;
  w.sequences = args.q_THD.count() / (per_token * args.sequence);
  w.scale = args.scale;
  w.scratch = args.scratch.data;
  return w;
}

size_t packed_bytes(const AttentionWork& w, int64_t copies) {
  return size_t(w.sequences * w.kv_heads * copies * w.packed_count() *
                attention_engine_for(w.type).element_bytes);
}

using Pack = void (*)(const AttentionWork&, int64_t, int64_t, int64_t, std::byte*);

void pack_all(const AttentionWork& w, Pack pack, size_t temp_bytes, int threads) {
  const int64_t blocks = w.key_blocks(), tasks = w.sequences * w.kv_heads * blocks;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t head = task / blocks;
    pack(w, head / w.kv_heads, head % w.kv_heads, task % blocks, thread_temp(temp_bytes));
  }
}

}  // namespace

const AttentionEngine& attention_engine_for(DType type) {
  const Isa level = isa();
  if (type == DType::bf16 && level == Isa::amx) return attention_engine_amx();
  if (type == DType::bf16 && level >= Isa::avx512_bf16) return attention_engine_bf16();
  if (level >= Isa::avx512) return attention_engine_avx512();
  return level == Isa::avx2 ? attention_engine_avx2() : attention_engine_sse2();
}

size_t attention_scratch_bytes(const Attention& args) {
  return packed_bytes(work_of(args), kForwardCopies);
}

void attention(const Attention& args, Stream& stream) {
  AttentionWork w = work_of(args);
  w.out = args.y_THD.data;
  w.lse = args.lse_TH.as<float>();
  const AttentionEngine& engine = attention_engine_for(w.type);
  const size_t temp_bytes = engine.temp_bytes(w);
  pack_all(w, engine.pack_forward, temp_bytes, stream.threads());
  const int64_t heads = w.sequences * w.heads, blocks = w.query_blocks();
  // The last blocks of queries see the most keys: they go first.
#pragma omp parallel for schedule(dynamic) num_threads(stream.threads())
  for (int64_t task = 0; task < heads * blocks; ++task) {
    const int64_t block = blocks - 1 - task / heads, head = task % heads;
    engine.forward(w, head / w.heads, head % w.heads, block, thread_temp(temp_bytes));
  }
}

size_t attention_backward_scratch_bytes(const AttentionBackward& args) {
  const AttentionWork w = work_of(args);
  return packed_bytes(w, kBackwardCopies) +
         size_t(w.sequences * w.heads * 2 * w.packed_count()) * sizeof(float);
}

void attention_backward(const AttentionBackward& args, Stream& stream) {
  AttentionWork w = work_of(args);
  w.y = args.y_THD.data;
  w.dy = args.dy_THD.data;
  w.lse = const_cast<float*>(args.lse_TH.as<float>());  // read only in this direction
  w.dq = args.dq_THD.data;
  w.dk = args.dk_TGD.data;
  w.dv = args.dv_TGD.data;
  const AttentionEngine& engine = attention_engine_for(w.type);
  const size_t temp_bytes = engine.temp_bytes(w);
  pack_all(w, engine.pack_backward, temp_bytes, stream.threads());
  const int64_t heads = w.sequences * w.heads;
#pragma omp parallel for schedule(dynamic) num_threads(stream.threads())
  for (int64_t task = 0; task < heads; ++task)
    engine.backward(w, task / w.heads, task % w.heads, thread_temp(temp_bytes));
  const int64_t blocks = w.key_blocks(), tasks = w.sequences * w.kv_heads * blocks;
#pragma omp parallel for schedule(static) num_threads(stream.threads())
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t head = task / blocks;
    engine.finish_backward(w, head / w.kv_heads, head % w.kv_heads, task % blocks);
  }
}

}  // namespace qat::cpu
