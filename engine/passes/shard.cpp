#include "engine/passes/shard.h"

#include <algorithm>
#include <map>
#include <set>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/graph/op.h"
#include "engine/ops/collectives.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

constexpr std::string_view kGradientPrefix = "grad.", kDirectSuffix = ".direct";

// The parameter whose accumulated gradient a value is.
std::string parameter_of(const Value& gradient) {
  std::string_view name = gradient.name;
  if (name.starts_with(kGradientPrefix)) name.remove_prefix(kGradientPrefix.size());
  if (name.ends_with(kDirectSuffix)) name.remove_suffix(kDirectSuffix.size());
  return std::string(name);
}

class Sharder {
 public:
  Sharder(Graph& graph, std::vector<ParameterGradient>& gradients, const Sharding& sharding)
      : graph_(graph), gradients_(gradients), sharding_(sharding) {}

  void run() {
    split_parameters();
    std::vector<Node> old = std::move(graph_.nodes);
    graph_.nodes.clear();
    if (sharding_.stage >= ZeroStage::gradients) split_accumulators(old);
    for (const Phase phase : {Phase::prologue, Phase::body, Phase::epilogue}) {
      phase_ = phase;
      if (phase == Phase::body && sharding_.stage != ZeroStage::weights) gather_for_body(old);
      if (phase == Phase::epilogue) sum_accumulators(old);
      for (Node& node : old)
        if (node.phase == phase) take(node);
    }
    for (ParameterGradient& gradient : gradients_)
      gradient.gradient = own_part(gradient.name, renamed(gradient.gradient));
    graph_.refresh_producers();
    log::debug("shard: {} values by rows, {} gathers, {} sums over {} ranks", pieces_.size(),
               gathers_, sums_, sharding_.ranks->size());
  }

 private:
  int rank() const { return sharding_.ranks->rank(); }

  const Partition* piece(Id id) const {
    const auto found = pieces_.find(id);
    return found == pieces_.end() ? nullptr : &found->second;
  }

  void make_piece(Id id, const Partition& rows) {
    Value& value = graph_.value(id);
    value.shape = with_rows(value.shape, rows.of(rank()).count());
    pieces_.emplace(id, rows);
  }

  void split_parameters() {
    if (!sharding_.splits_masters()) return;
    for (size_t v = 0; v < graph_.values.size(); ++v)
      if (graph_.values[v].kind == Kind::param)
        if (const Partition* rows = sharding_.partition(graph_.values[v].name))
          make_piece(Id(v), *rows);
  }

  // Of a gradient that a body node writes; null where it is summed whole.
  const Partition* partition_of(const Value& gradient) const {
    const Partition* rows = sharding_.partition(parameter_of(gradient));
    return rows && gradient.shape.rank() > 1 && gradient.shape[0] == rows->rows() ? rows : nullptr;
  }

  // Each micro-batch makes its whole gradient in the arena; what is accumulated are the own rows.
  void split_accumulators(std::vector<Node>& old) {
    for (size_t v = 0, count = graph_.values.size(); v < count; ++v) {
      if (graph_.values[v].kind != Kind::gradient) continue;
      const Partition* rows = partition_of(graph_.values[v]);
      const Node* last = nullptr;
      for (const Node& node : old)
        if (std::count(node.outputs.begin(), node.outputs.end(), Id(v))) last = &node;
      // One that the epilogue makes comes from sums over the ranks already.
      if (!rows || !last || last->phase != Phase::body) continue;
      const Id sum = Id(v), whole = graph_.add_value(graph_.values[v]);
      graph_.value(whole).kind = Kind::activation;
      for (Node& node : old)
        for (Id& out : node.outputs)
          if (out == sum) {
            if (node.accumulate == Accumulate::across_runs) node.accumulate = Accumulate::never;
            out = whole;
          }
      make_piece(sum, *rows);
      summed_rows_.insert(sum);
      summed_after_[last].push_back({whole, sum});
    }
  }

  // Those that hold the sum over this rank's micro-batches, whole.
  void sum_accumulators(const std::vector<Node>& old) {
    std::vector<Id> written;
    for (const Node& node : old)
      if (node.phase == Phase::body)
        for (const Id out : node.outputs)
          if (out != kNone && graph_.value(out).kind == Kind::gradient && !piece(out) &&
              std::find(written.begin(), written.end(), out) == written.end())
            written.push_back(out);
    for (const Id id : written) {
      const Value value = graph_.value(id);
      const Partition* rows = sharding_.splits_masters() ? partition_of(value) : nullptr;
      const Id sum =
          graph_.add_value({value.shape, value.dtype, Kind::activation, parameter_of(value), -1});
      if (rows) {
        make_piece(sum, *rows);
        summed_rows_.insert(sum);
        append(kReduceScatter, {id}, {sum}, DealtRows{sharding_.ranks, *rows}, parameter_of(value));
      } else {
        append(kAllReduce, {id}, {sum}, sharding_.ranks, parameter_of(value));
      }
      renamed_[id] = sum;
      ++sums_;
    }
  }

  // Once a step, what the body reads of dealt values.
  void gather_for_body(const std::vector<Node>& old) {
    phase_ = Phase::prologue;
    for (const Node& node : old)
      if (node.phase == Phase::body)
        for (const Id in : node.inputs)
          if (in != kNone && piece(in)) gather_once(in, node.path);
    phase_ = Phase::body;
  }

  // A gradient that comes from whole ones (a factor's, from that of the merged matrix) is whole.
  Id own_part(const std::string& parameter, Id gradient) {
    const Partition* rows = sharding_.splits_masters() ? sharding_.partition(parameter) : nullptr;
    if (!rows || piece(gradient)) return gradient;
    const Id own = graph_.add_value(graph_.value(gradient));
    graph_.value(own).kind = Kind::activation;
    make_piece(own, *rows);
    append(kTakeRows, {gradient}, {own}, DealtRows{sharding_.ranks, *rows}, parameter);
    return own;
  }

  void append(const Op& op, std::vector<Id> inputs, std::vector<Id> outputs, std::any attributes,
              const std::string& path) {
    Node node;
    node.op = &op;
    node.inputs = std::move(inputs);
    node.outputs = std::move(outputs);
    node.attributes = std::move(attributes);
    node.path = path;
    node.phase = phase_;
    graph_.nodes.push_back(std::move(node));
  }

  // A value with all rows of a dealt one. The codes of a dequantized matrix are smaller than it is.
  Id gather(Id id, const std::string& path) {
    const Partition rows = *piece(id);
    const auto maker = dequantized_.find(id);
    Value whole = graph_.value(id);
    whole.shape = with_rows(whole.shape, rows.rows());
    whole.kind = Kind::activation;
    const Id all = graph_.add_value(whole);
    if (maker == dequantized_.end()) {
      append(kAllGather, {id}, {all}, DealtRows{sharding_.ranks, rows}, path);
      ++gathers_;
      return all;
    }
    Node dequantize = maker->second;
    for (Id& in : dequantize.inputs)
      if (in != kNone && piece(in))
        in = phase_ == Phase::body ? gather(in, path) : gather_once(in, path);
    dequantize.outputs = {all};
    dequantize.phase = phase_;
    graph_.nodes.push_back(std::move(dequantize));
    return all;
  }

  // Where that is once a step.
  Id gather_once(Id id, const std::string& path) {
    const auto found = gathered_.find(id);
    if (found != gathered_.end()) return found->second;
    const Id all = gather(id, path);
    gathered_[id] = all;
    return all;
  }

  Id renamed(Id id) const {
    const auto found = renamed_.find(id);
    return found == renamed_.end() ? id : found->second;
  }

  // The rows that the node works on, where it works row by row and every matrix that it reads is
  // there by them or, a state (a grid that was found before training), can be cut to them.
  const Partition* rows_it_stays_on(const Node& node) const {
    if (!node.op->row_wise || !node.op->row_wise(node)) return nullptr;
    const Partition* rows = nullptr;
    for (const Id in : node.inputs)
      if (in != kNone && piece(in)) rows = piece(in);
    if (!rows) return nullptr;
    for (const Id in : node.inputs) {
      if (in == kNone || piece(in) || graph_.value(in).shape.rank() < 2) continue;
      const Value& value = graph_.value(in);
      if (value.kind != Kind::state || value.shape[0] != rows->rows()) return nullptr;
    }
    return rows;
  }

  Id own_rows_of(Id state, const Partition& rows, const std::string& path) {
    const auto found = cut_.find(state);
    if (found != cut_.end()) return found->second;
    const Id own = graph_.add_value(graph_.value(state));
    graph_.value(own).kind = Kind::activation;
    make_piece(own, rows);
    append(kTakeRows, {state}, {own}, DealtRows{sharding_.ranks, rows}, path);
    return cut_[state] = own;
  }

  void take(Node& node) {
    for (Id& in : node.inputs)
      if (in != kNone) in = renamed(in);
    const Partition* rows = phase_ != Phase::body ? rows_it_stays_on(node) : nullptr;
    if (rows) {
      const Partition held = *rows;
      for (Id& in : node.inputs)
        if (in != kNone && !piece(in) && graph_.value(in).shape.rank() > 1)
          in = own_rows_of(in, held, node.path);
      for (const Id out : node.outputs)
        if (out != kNone) {
          make_piece(out, held);
          if (phase_ == Phase::epilogue) summed_rows_.insert(out);
        }
      if (node.op == &kDequantize) dequantized_[node.outputs[0]] = node;
      if (node.op == &kFakeQuant || node.op == &kQuantize) begin_noise_at(node, held);
      graph_.nodes.push_back(node);
      return;
    }
    for (Id& in : node.inputs) {
      if (in == kNone || !piece(in)) continue;
      if (summed_rows_.count(in))
        internal_error("shard: {} at {} reads all rows at the end of a step", node.op->name,
                       node.path);
      in = sharding_.stage == ZeroStage::weights && phase_ == Phase::body
               ? gather(in, node.path)
               : gather_once(in, node.path);
    }
    graph_.nodes.push_back(node);
    if (const auto found = summed_after_.find(&node); found != summed_after_.end())
      for (const auto& [whole, sum] : found->second) {
        append(kReduceScatter, {whole}, {sum}, DealtRows{sharding_.ranks, *piece(sum)},
               parameter_of(graph_.value(sum)));
        graph_.nodes.back().accumulate = Accumulate::across_runs;
        ++sums_;
      }
  }

  // Stochastic rounding goes by an element's place in the whole matrix.
  void begin_noise_at(Node& node, const Partition& rows) const {
    auto attributes = node.attribute<FakeQuantAttributes>();
    attributes.first_element = rows.of(rank()).begin * graph_.value(node.inputs[0]).shape.cols();
    node.attributes = attributes;
  }

  struct Summed {
    Id whole, sum;
  };
  Graph& graph_;
  std::vector<ParameterGradient>& gradients_;
  const Sharding& sharding_;
  Phase phase_ = Phase::prologue;
  std::map<Id, Partition> pieces_;
  std::map<Id, Id> cut_;            ///< state -> its own rows
  std::set<Id> summed_rows_;        ///< gradients of which only the own rows are summed
  std::map<Id, Id> gathered_;       ///< dealt value -> all of it, for the whole step
  std::map<Id, Id> renamed_;        ///< accumulator -> its sum over the ranks
  std::map<Id, Node> dequantized_;  ///< by output, those that work by rows
  std::map<const Node*, std::vector<Summed>> summed_after_;  ///< by the last node that writes one
  int gathers_ = 0, sums_ = 0;
};

}  // namespace

void shard(Graph& graph, std::vector<ParameterGradient>& gradients, const Sharding& sharding) {
  if (sharding.shared()) Sharder(graph, gradients, sharding).run();
}

}  // namespace qat
