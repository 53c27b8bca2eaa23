// What an op is: a constant object with a shape rule (its builder function), a gradient rule and a
// launch. The three stand in one file an op (engine/ops/NAME.cpp), in that order.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/error.h"
#include "engine/graph/graph.h"
#include "kernels/kernels.h"

namespace qat {

class Builder;
class BindContext;
class GradContext;

/// What recomputation may do with an op.
enum class Cost : uint8_t {
  cheap,     ///< elementwise on values that the backward pass keeps anyway
  expensive  ///< a matmul, attention, or an op whose inputs would have to be kept instead
};

struct Op {
  const char* name;
  void (*differentiate)(GradContext&) = nullptr;  ///< null = the op stops gradients
  void (*bind)(BindContext&) = nullptr;
  Cost cost = Cost::expensive;
  bool in_place = false;     ///< output 0 may share memory with input 0 when that input dies here
  bool accumulates = false;  ///< can add into its f32 gradient output
  bool reads_run_state = false;  ///< depends on more than its inputs (a cache that moves on)
  /// Whether row i of every output follows from row i of every matrix it reads. Null = no.
  bool (*row_wise)(const Node&) = nullptr;
};

/// What a launch may depend on besides its bound addresses.
struct RunState {
  bool first_micro_batch = true;
};

using Launch = std::function<void(Stream&, const RunState&)>;

/// Gives an op's launch the views of its node and takes its kernel calls. In a first pass
/// (measuring) the views have shapes but no memory behind them, and only scratch sizes are noted.
class BindContext {
 public:
  enum class Pass { measure, bind };

  BindContext(const Node& node, const KernelTable& table, std::function<View(Id)> view_of,
              View scratch, Pass pass)
      : kernels(table), node_(node), view_of_(std::move(view_of)), scratch_(scratch), pass_(pass) {}

  const KernelTable& kernels;
  const Node& node() const { return node_; }
  template <class T>
  const T& attribute() const {
    return node_.attribute<T>();
  }
  /// The view of input or output i; empty if it is absent.
  View in(size_t i) const { return at(node_.inputs, i); }
  View out(size_t i) const { return at(node_.outputs, i); }

  /// Queues one kernel call. Fills in args.scratch and args.accumulate.
  template <class Args>
  void run(const Kernel<Args>& kernel, Args args) {
    if (!kernel)
      refuse(
          "{}: the {} backend has no kernel for {} on this machine; choose another backend or "
          "scheme",
          node_.path, kernels.name, node_.op->name);
    if constexpr (requires { args.scratch; }) {
      const size_t bytes = kernel.scratch_bytes ? kernel.scratch_bytes(args) : 0;
      scratch_bytes_ = std::max(scratch_bytes_, bytes);
      args.scratch = View{bytes ? scratch_.data : nullptr, Shape{int64_t(bytes)}, DType::u8};
    }
    if (pass_ == Pass::measure) return;
    launches_.push_back([function = kernel.run, args, mode = node_.accumulate](
                            Stream& stream, const RunState& state) mutable {
      [[maybe_unused]] const bool add =
          mode == Accumulate::always ||
          (mode == Accumulate::across_runs && !state.first_micro_batch);
      if constexpr (requires { args.accumulate; }) args.accumulate = add;
      if constexpr (requires { args.accumulate_dw; }) args.accumulate_dw = add;
      function(args, stream);
    });
  }

  /// Queues work that is no kernel of the table.
  void call(Launch work) {
    if (pass_ == Pass::bind) launches_.push_back(std::move(work));
  }

  size_t scratch_bytes() const { return scratch_bytes_; }
  std::vector<Launch> take_launches() { return std::move(launches_); }

 private:
  View at(const std::vector<Id>& ids, size_t i) const {
    return i < ids.size() && ids[i] != kNone ? view_of_(ids[i]) : View{};
  }
  const Node& node_;
  std::function<View(Id)> view_of_;
  View scratch_;
  Pass pass_;
  size_t scratch_bytes_ = 0;
  std::vector<Launch> launches_;
};

/// Gives an op's gradient rule the gradients of its outputs and takes those of its inputs. The rule
/// emits ops through builder(); it never calls a kernel.
class GradContext {
 public:
  virtual ~GradContext() = default;
  virtual Builder& builder() = 0;
  /// Inputs and outputs of the node being differentiated; kNone where absent.
  virtual Id in(size_t i) const = 0;
  virtual Id out(size_t i) const = 0;
  virtual const Node& node() const = 0;
  /// Gradient of output i, kNone if nothing depends on it.
  virtual Id output_grad(size_t i) const = 0;
  /// Whether anything wants the gradient of input i.
  virtual bool wants(size_t i) const = 0;
  /// Adds a gradient of input i.
  virtual void add(size_t i, Id gradient) = 0;
  /// A loss computes its gradients with its value: appends an output to the node itself.
  virtual Id add_output(Shape shape, DType dtype) = 0;
};

}  // namespace qat
