// What a step will cost on machines that are not there: memory of a rank, bytes on the wire and
// time, from the very graph that a rank would run and a stated model of machine and links.
//
//   compute    = FLOPs of the rank's tokens / (peak * reached share)
//   collective = latency * log2(ranks) + bytes that the rank sends / bandwidth   (alpha-beta)
//   step       = compute, and of the collectives what is not hidden behind it
#pragma once

#include <string>
#include <vector>

#include "engine/train/trainer.h"
#include "models/memory_plan.h"

namespace qat {

/// A processor that a rank has to itself.
struct RankMachine {
  std::string name;
  double peak = 0;     ///< dense bf16 FLOP/s, of the data sheet
  double reached = 0;  ///< share of it that a whole step reaches
  double memory = 0;   ///< bytes
};
/// What ranks speak over, one direction.
struct Link {
  std::string name;
  double bandwidth = 0;  ///< bytes a second and rank
  double latency = 0;    ///< seconds a message
};

/// a100, h100, h200 or b200. Throws Error(refused) for another name.
RankMachine machine_named(const std::string& name);
/// What `ranks` of that machine speak over, eight to a node: its NVLink where they fit one node,
/// else nvlink (a rack of them) or ib (one 400 Gbit/s port a rank). Throws Error(refused) likewise.
Link link_named(const std::string& name, const RankMachine& machine, int ranks);

/// Collectives of one kind in a step of one rank.
struct Traffic {
  std::string op;
  int64_t calls = 0;
  double bytes = 0;  ///< that this rank sends
};

/// Of the fully quantized model's step, by rings over all ranks: gathering and scattering send
/// (n - 1) / n of a value's bytes, summing twice that.
std::vector<Traffic> step_traffic(const TrainingSpec& spec, const TrainerSettings& settings);

enum class Overlap : uint8_t { none, full };

struct StepTime {
  double compute = 0, links = 0, step = 0;  ///< seconds
};
StepTime step_time(double flops, const std::vector<Traffic>& traffic, const RankMachine& machine,
                   const Link& link, int ranks, Overlap overlap);

/// Both as lines for people. tokens: of the whole batch.
std::vector<std::string> scale_report(const TrainingMemory& memory,
                                      const std::vector<Traffic>& traffic, const StepTime& time,
                                      const RankMachine& machine, const Link& link, int ranks,
                                      double tokens);

}  // namespace qat
