#include <algorithm>
#include <numeric>

#include "engine/graph/op.h"
#include "engine/passes/passes.h"

namespace qat {

namespace {

constexpr size_t kAlignment = 64;
size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

struct Block {
  int first, last;  // nodes between which it lives
  size_t bytes, offset = 0;
};

}  // namespace

MemoryPlan plan_memory(const Graph& graph, const std::vector<size_t>& scratch_bytes,
                       const std::vector<Id>& keep, Planning planning) {
  const int nodes = int(graph.nodes.size());
  MemoryPlan plan;
  plan.offset.assign(graph.values.size(), 0);
  plan.scratch.assign(graph.nodes.size(), 0);

  std::vector<int> first(graph.values.size(), -1), last(graph.values.size(), -1);
  for (int n = 0; n < nodes; ++n) {
    const Node& node = graph.nodes[size_t(n)];
    for (const auto* ids : {&node.inputs, &node.outputs})
      for (Id id : *ids)
        if (id != kNone && graph.value(id).kind == Kind::activation) {
          if (first[size_t(id)] < 0) first[size_t(id)] = n;
          last[size_t(id)] = n;
        }
  }
  // What the prologue makes for the body is read in every micro-batch, so it outlives the body's
  // last node.
  std::vector<bool> read_later(graph.values.size());
  for (const Node& node : graph.nodes)
    if (node.phase != Phase::prologue)
      for (Id in : node.inputs)
        if (in != kNone) read_later[size_t(in)] = true;
  for (const Node& node : graph.nodes)
    if (node.phase == Phase::prologue)
      for (Id out : node.outputs)
        if (out != kNone && read_later[size_t(out)]) last[size_t(out)] = nodes;
  for (Id id : keep) last[size_t(id)] = nodes;

  // In place: an op's first output takes over the block of its first input when that dies there.
  std::vector<Id>& home = plan.home;
  home.resize(graph.values.size());
  std::iota(home.begin(), home.end(), 0);
  if (planning == Planning::reuse)
    for (int n = 0; n < nodes; ++n) {
      const Node& node = graph.nodes[size_t(n)];
      if (!node.op->in_place || node.inputs.empty() || node.inputs[0] == kNone) continue;
      const Id x = node.inputs[0], y = node.outputs[0];
      const Kind kind = graph.value(x).kind;
      const bool dies = kind == Kind::activation && last[size_t(x)] == n;
      const bool finished = kind == Kind::gradient && node.phase == Phase::epilogue;
      if (!dies && !finished) continue;
      if (graph.value(x).shape != graph.value(y).shape ||
          graph.value(x).dtype != graph.value(y).dtype)
        continue;
      if (std::count(node.inputs.begin(), node.inputs.end(), x) > 1) continue;
      const Id root = home[size_t(x)];
      home[size_t(y)] = root;
      if (dies) last[size_t(root)] = std::max(last[size_t(root)], last[size_t(y)]);
    }

  std::vector<Block> blocks;
  std::vector<std::pair<Id, size_t>> value_block;
  for (size_t v = 0; v < graph.values.size(); ++v) {
    if (first[v] < 0 || home[v] != Id(v)) continue;
    const Value& value = graph.values[v];
    const size_t bytes = aligned(size_t(value.shape.count()) * size_of(value.dtype));
    value_block.push_back({Id(v), blocks.size()});
    blocks.push_back({first[v], last[v], bytes});
  }
  std::vector<std::pair<int, size_t>> scratch_block;
  for (int n = 0; n < nodes; ++n)
    if (scratch_bytes[size_t(n)]) {
      scratch_block.push_back({n, blocks.size()});
      blocks.push_back({n, n, aligned(scratch_bytes[size_t(n)])});
    }

  std::vector<size_t> change(size_t(nodes) + 2);
  size_t live = 0;
  {
    std::vector<int64_t> delta(size_t(nodes) + 2);
    for (const Block& b : blocks) {
      delta[size_t(b.first)] += int64_t(b.bytes);
      delta[size_t(b.last) + 1] -= int64_t(b.bytes);
    }
    int64_t now = 0;
    for (int64_t d : delta) live = std::max(live, size_t(now += d));
  }
  plan.live_peak_bytes = live;

  // Largest first (long-lived before short-lived at equal size), each at the lowest place that is
  // free for its whole life.
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(blocks[a].bytes, blocks[a].last - blocks[a].first) >
           std::pair(blocks[b].bytes, blocks[b].last - blocks[b].first);
  });
  if (planning == Planning::no_reuse) {
    for (Block& b : blocks) {
      b.offset = plan.arena_bytes;
      plan.arena_bytes += b.bytes;
    }
  } else {
    std::vector<size_t> placed;  // sorted by offset
    for (size_t i : order) {
      Block& b = blocks[i];
      size_t at = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
      for (size_t j : placed) {
        const Block& other = blocks[j];
        if (other.last < b.first || b.last < other.first) continue;
        if (other.offset >= at + b.bytes && other.offset - at < best_gap) {
          best = at;
          best_gap = other.offset - at;
        }
        at = std::max(at, other.offset + other.bytes);
      }
      b.offset = best != SIZE_MAX ? best : at;
      plan.arena_bytes = std::max(plan.arena_bytes, b.offset + b.bytes);
      placed.insert(
          std::upper_bound(placed.begin(), placed.end(), i,
                           [&](size_t x, size_t y) { return blocks[x].offset < blocks[y].offset; }),
          i);
    }
  }
  for (auto [id, block] : value_block) plan.offset[size_t(id)] = blocks[block].offset;
  for (size_t v = 0; v < graph.values.size(); ++v)
    if (home[v] != Id(v)) plan.offset[v] = plan.offset[size_t(home[v])];
  for (auto [node, block] : scratch_block) plan.scratch[size_t(node)] = blocks[block].offset;
  for (const Block& b : blocks)
    if (b.last == nodes) plan.prologue_bytes += b.bytes;
  return plan;
}

}  // namespace qat
