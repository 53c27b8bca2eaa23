// What of a training state each rank holds: all of it, or its rows (ZeRO; Rajbhandari et al.,
// 2020). Rank r updates the rows it owns at every stage, with the same arithmetic in the same
// order, so the stages give the same bits.
#pragma once

#include <cstdint>

#include "engine/dist/communicator.h"
#include "engine/dist/partition.h"

namespace qat {

enum class ZeroStage : uint8_t {
  none,       ///< every rank holds everything; gradients are summed
  moments,    ///< moments and masters by rows; weights gathered once a step
  gradients,  ///< and gradients, summed after each micro-batch
  weights     ///< and what the matmuls read, gathered for each of them
};

struct Sharding {
  Communicator* ranks = nullptr;
  ZeroStage stage = ZeroStage::none;
  Partitions partitions;  ///< of parameters

  bool shared() const { return size() > 1; }
  int size() const { return ranks ? ranks->size() : 1; }
  int rank() const { return ranks ? ranks->rank() : 0; }
  /// This rank's rows of a dealt tensor.
  Rows own(const Partition& partition) const { return partition.of(rank()); }
  /// Null where every rank holds all of it.
  const Partition* partition(const std::string& parameter) const {
    const auto found = partitions.find(parameter);
    return found == partitions.end() ? nullptr : &found->second;
  }
  /// Whether a rank's Store holds its own rows of dealt parameters only.
  bool splits_masters() const { return shared() && stage != ZeroStage::none; }
};

}  // namespace qat
