// The pass that puts observers on the inputs of linears, for calibration: the sibling of
// insert_quantizers, with the same placement. It needs a forward graph and comes before
// eliminate_dead and hoist; what the graph computes stays as it is.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/graph/graph.h"

namespace qat {

/// The interval that a histogram divides into bins.
struct HistogramRange {
  float bottom = 0.0f, top = 0.0f;
};
/// Bins of each histogram.
constexpr int64_t kHistogramBins = 4096;

/// Names of the states that hold the statistics of a linear's input.
inline std::string column_amax_name(const std::string& path) {
  return "observe." + path + ".column_amax";
}
inline std::string min_max_name(const std::string& path) {
  return "observe." + path + ".min_max";
}
inline std::string histogram_name(const std::string& path) {
  return "observe." + path + ".histogram";
}

/// One observed value.
struct ObservedInput {
  std::string path;                  ///< of the first linear that reads it: its states' name
  std::vector<std::string> linears;  ///< all the named linears that read it, in forward order
  int64_t width = 0;                 ///< columns
};

/// Which statistics to note.
struct ObserveWhat {
  enum class Statistic : uint8_t {
    extremes,  ///< column_amax and min_max
    histogram
  };
  Statistic statistic = Statistic::extremes;
  std::map<std::string, HistogramRange> ranges = {};  ///< of histograms, by ObservedInput::path
};

/// Observes the input of each linear in `paths`, a value that several of them read only once.
/// Throws Error(internal) for a path that is no linear of the graph and for a histogram without a
/// range.
std::vector<ObservedInput> insert_observers(Graph& graph, const std::vector<std::string>& paths,
                                            const ObserveWhat& what);

}  // namespace qat
