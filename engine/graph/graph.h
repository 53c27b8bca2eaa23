// The graph is data: values and nodes in execution order. Every feature (quantizers, gradients,
// recomputation, fusion, memory) is a rewrite of it; nothing here runs anything.
#pragma once

#include <any>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace qat {

struct Op;

using Id = int32_t;  ///< index of a value
constexpr Id kNone = -1;

/// What a value is, and by that where it lives.
enum class Kind : uint8_t {
  input,       ///< filled before each run (tokens, targets)
  param,       ///< in the Store, trained or frozen
  state,       ///< in the Store, survives runs (rope tables, scales, KV cache)
  activation,  ///< lives in the planned arena
  gradient     ///< accumulated over micro-batches, in the Store
};

/// When a node runs within a training step.
enum class Phase : uint8_t {
  prologue,  ///< once a step, before the first micro-batch: depends on parameters only
  body,      ///< once a micro-batch
  epilogue   ///< once a step, after the last micro-batch: finishes accumulated gradients
};

/// How a node writes a gradient that several nodes or micro-batches add to.
enum class Accumulate : uint8_t {
  never,        ///< overwrites
  across_runs,  ///< overwrites in the first micro-batch of a step, adds in the others
  always        ///< adds
};

struct Value {
  Shape shape;
  DType dtype = DType::f32;
  Kind kind = Kind::activation;
  std::string name;   ///< Store or input name; for activations the layer path that made it
  int producer = -1;  ///< index of the last node that writes it, -1 for none
};

struct Node {
  const Op* op = nullptr;
  std::vector<Id> inputs;   ///< kNone where an optional input is absent
  std::vector<Id> outputs;  ///< kNone where an optional output is not wanted
  std::any attributes;      ///< the op's own attribute struct
  std::string path;         ///< layer path, e.g. model.layers.3.mlp.up_proj
  int layer = -1;           ///< index of the decoder layer, -1 outside
  bool backward = false;
  Phase phase = Phase::body;
  Accumulate accumulate = Accumulate::never;

  template <class T>
  const T& attribute() const {
    return *std::any_cast<T>(&attributes);
  }
};

class Graph {
 public:
  std::vector<Value> values;
  std::vector<Node> nodes;  ///< in execution order

  Id add_value(Value value);
  const Value& value(Id id) const { return values[size_t(id)]; }
  Value& value(Id id) { return values[size_t(id)]; }
  /// The input, param, state or gradient of that name, or kNone.
  Id find(const std::string& name) const;

  /// Sets every value's producer from the node list.
  void refresh_producers();
  /// For each value, the indices of the nodes that read it.
  std::vector<std::vector<int>> readers() const;
  /// For each value: true if it is a param or state, or computed from such alone.
  std::vector<bool> constant_in_step() const;
};

/// One line a node: outputs = op(inputs) with shapes, dtypes and path.
std::string print(const Graph& graph);

/// Throws Error(internal) naming the node when a value is read before it is written, an activation
/// is written twice, or an id is out of range.
void verify(const Graph& graph);

}  // namespace qat
