// The statistics that observers leave in the Store: made ready before a run, read after it.
#pragma once

#include <vector>

#include "engine/passes/insert_observers.h"
#include "engine/ptq/histogram.h"
#include "engine/runtime/store.h"

namespace qat {

/// Sets the states of these observers to where counting starts, making them if need be.
void reset_observations(const std::vector<ObservedInput>& inputs, ObserveWhat::Statistic statistic,
                        Store& store);
/// Removes every statistic of these inputs from the Store.
void erase_observations(const std::vector<ObservedInput>& inputs, Store& store);

/// Smallest and largest value seen, widened to hold 0. Throws Error(diverged) if that is not
/// finite.
Extent seen_extent(const ObservedInput& input, const Store& store);
/// Largest |x| of each column.
std::vector<float> seen_column_amax(const ObservedInput& input, const Store& store);
/// The counts, over the range they were counted in.
Histogram seen_histogram(const ObservedInput& input, HistogramRange range, const Store& store);

}  // namespace qat
