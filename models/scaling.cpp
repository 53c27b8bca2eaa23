#include "models/scaling.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/core/error.h"
#include "engine/graph/op.h"

namespace qat {

namespace {

constexpr int kRanksANode = 8;
// A public native trainer's 7B step on one H100 reaches 61% of the dense peak.
constexpr double kReached = 0.6;

struct Known {
  RankMachine machine;
  double nvlink;  ///< bytes a second, one direction
};
// Dense bf16 peak, memory and NVLink of the vendor's data sheets.
const std::array<Known, 4>& known_machines() {
  static const std::array<Known, 4> machines = {{
      {{"a100", 312e12, kReached, 80e9}, 300e9},
      {{"h100", 989e12, kReached, 80e9}, 450e9},
      {{"h200", 989e12, kReached, 141e9}, 450e9},
      {{"b200", 2250e12, kReached, 180e9}, 900e9},
  }};
  return machines;
}

const Known& known(const std::string& name) {
  for (const Known& machine : known_machines())
    if (machine.machine.name == name) return machine;
  refuse("--gpu: expected a100, h100, h200 or b200, got {}", name);
}

// Bytes that a rank sends in a ring of n.
double sent(const std::string& op, double bytes, int ranks) {
  const double share = double(ranks - 1) / double(ranks);
  return bytes * share * (op == "all_reduce" ? 2.0 : 1.0);
}

double bytes_of(const Value& value) {
  return double(value.shape.count()) * double(size_of(value.dtype));
}

}  // namespace

RankMachine machine_named(const std::string& name) {
  return known(name).machine;
}

Link link_named(const std::string& name, const RankMachine& machine, int ranks) {
  if (name != "nvlink" && name != "ib") refuse("--link: expected nvlink or ib, got {}", name);
  if (name == "nvlink" || ranks <= kRanksANode) return {"NVLink", known(machine.name).nvlink, 5e-6};
  return {"InfiniBand 400 Gbit/s", 50e9, 15e-6};
}

std::vector<Traffic> step_traffic(const TrainingSpec& spec, const TrainerSettings& settings) {
  std::vector<Traffic> traffic;
  if (!spec.sharding.shared()) return traffic;
  const int ranks = spec.sharding.ranks->size();
  const int64_t runs = settings.batch / ranks / settings.micro_batch;
  const TrainingGraph training = build_training_graph(spec, all_layers(spec.config));
  for (const Node& node : training.graph.nodes) {
    const std::string op = node.op->name;
    if (op != "all_gather" && op != "reduce_scatter" && op != "all_reduce") continue;
    const Value& whole =
        training.graph.value(op == "all_gather" ? node.outputs[0] : node.inputs[0]);
    auto found =
        std::find_if(traffic.begin(), traffic.end(), [&](const Traffic& t) { return t.op == op; });
    if (found == traffic.end()) found = traffic.insert(traffic.end(), {op, 0, 0.0});
    const int64_t times = node.phase == Phase::body ? runs : 1;
    found->calls += times;
    found->bytes += double(times) * sent(op, bytes_of(whole), ranks);
  }
  return traffic;
}

StepTime step_time(double flops, const std::vector<Traffic>& traffic, const RankMachine& machine,
                   const Link& link, int ranks, Overlap overlap) {
  StepTime time;
  time.compute = flops / (machine.peak * machine.reached);
  for (const Traffic& t : traffic)
    time.links += double(t.calls) * link.latency * std::ceil(std::log2(double(ranks))) +
                  t.bytes / link.bandwidth;
  time.step =
      overlap == Overlap::full ? std::max(time.compute, time.links) : time.compute + time.links;
  return time;
}

std::vector<std::string> scale_report(const TrainingMemory& memory,
                                      const std::vector<Traffic>& traffic, const StepTime& time,
                                      const RankMachine& machine, const Link& link, int ranks,
                                      double tokens) {
  std::vector<std::string> lines;
  const double gib = double(memory.total()) / double(1 << 30), has = machine.memory / 1.073741824e9;
  lines.push_back(fmt::format("on paper: {} x {} over {}: {:.1f} GiB a rank of {:.0f} GiB{}", ranks,
                              machine.name, link.name, gib, has,
                              gib > has ? ", which does not fit" : ""));
  double bytes = 0;
  std::string parts;
  for (const Traffic& t : traffic) {
    bytes += t.bytes;
    parts += fmt::format("{}{} {} times {:.2f} GB", parts.empty() ? "" : ", ", t.op, t.calls,
                         t.bytes / 1e9);
  }
  lines.push_back(fmt::format("  on the wire: {:.2f} GB a step and rank{}", bytes / 1e9,
                              parts.empty() ? "" : " (" + parts + ")"));
  lines.push_back(fmt::format(
      "  step: {:.2f} s = compute {:.2f} s at {:.0f}% of {:.0f} TFLOP/s, links {:.2f} s; {:.0f} "
      "tokens/s, {:.0f} a rank",
      time.step, time.compute, 100 * machine.reached, machine.peak / 1e12, time.links,
      tokens / time.step, tokens / time.step / ranks));
  return lines;
}

}  // namespace qat
