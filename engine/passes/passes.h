// The rewrites of the graph, in the order in which a training program applies them:
//
//   pass               needs                         leaves
//   insert_adapters    a forward graph               low-rank products, packed matrices
//   insert_quantizers  a forward graph               fake_quant before the planned linears
//   differentiate      a forward graph with a loss   gradient nodes, gradients of parameters
//   fuse               fake_quant + linear pairs     integer matmuls where the scheme allows
//   recompute          forward and backward nodes    fewer values alive between the two
//   eliminate_dead     any graph                     no node that nothing reads
//   hoist              any graph                     phases: prologue, body, epilogue
//   shard              a hoisted graph, ranks        one rank's part (see shard.h)
//
// Each prints one line of what it did (at debug level), can be left out, and changes no bit of the
// result (fuse: no more than float rounding).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/graph/graph.h"
#include "engine/quant/quant_plan.h"

namespace qat {

struct KernelTable;

/// Puts FakeQuant nodes on weight and activation of every linear that the plan names and that lies
/// in an enabled layer; on keys and values of the attentions that it names there (a KV cache lies in
/// codes then); on the embedding's table and the head's weight and input, where it names them, as
/// soon as any layer is enabled. Calibrated activations read their scale from the state
/// `scale.<path>`. Returns the number of linears quantized.
int insert_quantizers(Graph& graph, const QuantPlan& plan, const EnabledLayers& enabled);

/// A parameter and the value that holds its gradient (f32, the parameter's shape).
struct ParameterGradient {
  std::string name;
  Id gradient;
};
/// Appends the gradient nodes of the graph's loss. Parameters named in `trained` get gradients, in
/// gradient values named "grad.<name>" that accumulate over the micro-batches of a step.
std::vector<ParameterGradient> differentiate(Graph& graph, const std::vector<std::string>& trained);

enum class Recompute : uint8_t { off, cheap, block };
/// Clones forward nodes beside their backward users, so that what they made need not be kept:
/// `cheap` repeats elementwise ops and row reductions, `block` everything within a decoder layer.
void recompute(Graph& graph, Recompute policy);

/// What becomes of products whose scales belong to groups of a row: integer sums of a group have to
/// be scaled one by one, which pays only where floating point is slow.
enum class GroupScales : uint8_t { float_product, integer_product };
/// Integers where the backend has a kernel for them.
GroupScales group_scales_of(const KernelTable& kernels);
/// linear(fake_quant(x), fake_quant(w)) with int8-compatible grids becomes an integer matmul on the
/// codes. Prints "fused n of m". Returns n.
int fuse(Graph& graph, GroupScales groups);

/// Removes nodes whose outputs nothing reads. `keep` are results.
void eliminate_dead(Graph& graph, const std::vector<Id>& keep);

/// Moves what depends on parameters alone to the prologue and what finishes gradients to the
/// epilogue.
void hoist(Graph& graph);

/// Where every activation lies in one arena.
struct MemoryPlan {
  std::vector<size_t> offset;   ///< by value; only activations that some node touches
  std::vector<size_t> scratch;  ///< by node
  std::vector<Id> home;         ///< by value: the value whose memory it shares, itself if none
  size_t arena_bytes = 0;       ///< size of the arena
  size_t live_peak_bytes = 0;   ///< largest sum of live values: a lower bound of the arena
  size_t prologue_bytes = 0;    ///< of those, values that live through the whole step
};
enum class Planning : uint8_t { reuse, no_reuse };
/// Lifetimes and best fit. scratch_bytes by node. no_reuse gives every value its own place (for
/// tests).
MemoryPlan plan_memory(const Graph& graph, const std::vector<size_t>& scratch_bytes,
                       const std::vector<Id>& keep, Planning planning);

}  // namespace qat
