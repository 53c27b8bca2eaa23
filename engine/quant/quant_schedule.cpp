// Which layers are quantized at a step; see the header.
#include "engine/quant/quant_schedule.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/core/error.h"

namespace qat {
namespace {

const char* words_of(EnableOrder order) {
  switch (order) {
    case EnableOrder::front_to_back:
      return "front to back";
    case EnableOrder::back_to_front:
      return "back to front";
    case EnableOrder::listed:
      return "in the listed order";
  }
  return "";
}

std::string span_of(int64_t first, int64_t last) {
  return first == last ? fmt::format("{}", first) : fmt::format("{}..{}", first, last);
}

}  // namespace

QuantSchedule::QuantSchedule(QuantScheduleOptions options) : options_(std::move(options)) {
  QuantScheduleOptions& o = options_;
  if (o.layers < 1) refuse("quantization schedule: {} layers; at least 1 is needed", o.layers);
  if (o.warmup_bf16 < 0) refuse("warmup_bf16 is {}; expected 0 or more steps", o.warmup_bf16);
  if (o.layers_per_stage < 0) {
    refuse("enable.layers is {}; expected 1 or more, or 0 for all at once", o.layers_per_stage);
  }
  if (o.every < 1) refuse("enable.every is {}; expected 1 or more steps", o.every);
  order_ = o.list;
  if (order_.empty()) {
    if (o.order == EnableOrder::listed) refuse("enable.order lists no layers");
    order_.resize(size_t(o.layers));
    std::iota(order_.begin(), order_.end(), int64_t{0});
  }
  std::vector<int64_t> sorted = order_;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end() || sorted.front() < 0 ||
      sorted.back() >= o.layers) {
    refuse("quantization schedule: layers {}; expected each at most once, from 0 to {}",
           fmt::join(order_, ", "), o.layers - 1);
  }
  if (o.order != EnableOrder::listed) order_ = std::move(sorted);
  if (o.order == EnableOrder::back_to_front) std::reverse(order_.begin(), order_.end());
  if (o.layers_per_stage == 0) o.layers_per_stage = layers();
}

int64_t QuantSchedule::stages() const {
  return (layers() + options_.layers_per_stage - 1) / options_.layers_per_stage;
}

int64_t QuantSchedule::enabled_count(int64_t step) const {
  if (step < options_.warmup_bf16) return 0;
  const int64_t stage = (step - options_.warmup_bf16) / options_.every;
  return stage + 1 >= stages() ? layers() : (stage + 1) * options_.layers_per_stage;
}

std::vector<int64_t> QuantSchedule::enabled_layers(int64_t step) const {
  std::vector<int64_t> enabled(order_.begin(), order_.begin() + enabled_count(step));
  std::sort(enabled.begin(), enabled.end());
  return enabled;
}

int64_t QuantSchedule::all_enabled_at() const {
  return options_.warmup_bf16 + (stages() - 1) * options_.every;
}

std::vector<int64_t> QuantSchedule::change_steps() const {
  std::vector<int64_t> steps;
  for (int64_t stage = 0; stage < stages(); ++stage) {
    steps.push_back(options_.warmup_bf16 + stage * options_.every);
  }
  return steps;
}

std::string QuantSchedule::timeline(int64_t steps) const {
  const int64_t last = steps - 1, first = options_.warmup_bf16, all = all_enabled_at();
  std::string line;
  const auto add = [&](const std::string& part) { line += (line.empty() ? "" : " | ") + part; };
  if (first > 0 && steps > 0) add("bf16 " + span_of(0, std::min(first - 1, last)));
  if (first < all && first <= last) {
    add(fmt::format("{} layers {}, {} every {} steps, {}", layers(), words_of(options_.order),
                    options_.layers_per_stage, options_.every,
                    span_of(first, std::min(all - 1, last))));
  }
  if (all <= last) add(fmt::format("all {} layers quantized {}", layers(), span_of(all, last)));
  if (all > last) {
    const int64_t reached = last < 0 ? 0 : enabled_count(last);
    add(fmt::format("no step with all layers quantized ({} of {} at the end)", reached, layers()));
  }
  return line;
}

}  // namespace qat
