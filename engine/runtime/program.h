// A compiled graph: every value has an address, every node its bound launches. Immutable;
// recompiled when the set of enabled layers changes.
#pragma once

#include <string>
#include <vector>

#include "engine/graph/graph.h"
#include "engine/graph/op.h"
#include "engine/passes/passes.h"
#include "engine/runtime/store.h"

namespace qat {

struct CompileOptions {
  Planning planning = Planning::reuse;
};

class Program {
 public:
  /// Takes the graph as it is (apply the passes first). Inputs, gradients and states it names are
  /// made in the Store; parameters must be there. `results` are values that can be read after a
  /// run. Throws when a kernel is missing.
  static Program compile(Graph graph, const std::vector<Id>& results, Store& store,
                         const KernelTable& kernels, const CompileOptions& options = {});

  // Each of these returns when its kernels have run: inputs may be changed and results read.

  /// What depends on parameters only: call once before the micro-batches of a step.
  void run_prologue(Stream& stream);
  void run_body(Stream& stream, const RunState& state);
  /// Finishes the gradients: call once after the micro-batches.
  void run_epilogue(Stream& stream);
  /// All three, for programs without gradients.
  void run(Stream& stream);
  /// Runs prologue and body again, looking at what each node writes. Names the first node that made
  /// a NaN or an infinity; empty if none did. For a step that went wrong: its inputs must still be
  /// there, and gradients are overwritten.
  std::string first_not_finite(Stream& stream, const RunState& state);

  /// Where an input, param, state, gradient or result lies. Results are valid until the arena is
  /// used by another program.
  View view(Id id) const;
  const Graph& graph() const { return graph_; }
  const MemoryPlan& memory() const { return plan_; }

  /// Seconds spent by op name.
  struct OpTime {
    std::string name;
    double seconds;
    int64_t calls;
  };
  /// From now on adds the time of every launch to *times (null: stops).
  void profile_into(std::vector<OpTime>* times) { times_ = times; }

  /// What compile would need of the arena, without a Store.
  static MemoryPlan plan(const Graph& graph, const std::vector<Id>& results,
                         const KernelTable& kernels);

 private:
  struct Bound {
    Launch launch;
    int node;
  };
  void bind();
  void run_phase(Phase phase, Stream& stream, const RunState& state);
  std::string not_finite_in(int node) const;

  Graph graph_;
  MemoryPlan plan_;
  std::vector<size_t> scratch_;
  Store* store_ = nullptr;
  const KernelTable* kernels_ = nullptr;
  std::vector<View> named_;  // by value; empty for activations
  std::vector<Bound> launches_[3];
  CompileOptions options_;
  std::vector<OpTime>* times_ = nullptr;
  std::byte* arena_ = nullptr;
};

}  // namespace qat
