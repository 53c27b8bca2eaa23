#include "engine/dist/watchdog.h"

#include <fmt/format.h>

#include <algorithm>

namespace qat {
namespace {

constexpr double kSilent = 2.0;  // a process that runs shows it many times in this time

std::string place(const Seen& s) {
  std::string text = fmt::format("at step {}, {}", s.step, stage_name(s.stage));
  if (s.waiting != Collective::none)
    text += fmt::format(", waiting in {} (its collective {})", collective_name(s.waiting),
                        s.collectives);
  return text;
}

}  // namespace

double RanClock::at(Moment now) {
  const double passed = std::chrono::duration<double>(now - last_).count();
  last_ = now;
  ran_ += std::clamp(passed, 0.0, most_);
  return ran_;
}

// While one rank saves, the others wait for it in their step.
double Watchdog::limit(std::span<const Seen> seen) const {
  const bool all = std::all_of(seen.begin(), seen.end(),
                               [](const Seen& s) { return s.stage == RunStage::step; });
  return all ? options_.seconds : options_.longer * options_.seconds;
}

std::optional<std::string> Watchdog::look(std::span<const Seen> seen, double now) {
  if (options_.seconds <= 0) return std::nullopt;
  if (known_.empty())
    for (const Seen& s : seen) known_.push_back({s.beats, s.progress, now, now});
  const double limit = this->limit(seen);
  double longest_silence = 0;
  const Seen* stuck = nullptr;
  for (size_t r = 0; r < seen.size(); ++r) {
    const Seen& s = seen[r];
    Known& k = known_[r];
    if (s.beats != k.beats) k.beats = s.beats, k.beat_at = now;
    if (s.progress != k.progress) k.progress = s.progress, k.progress_at = now;
    const double silence = now - k.progress_at;
    longest_silence = std::max(longest_silence, silence);
    if (silence <= limit) continue;
    if (now - k.beat_at > std::min(kSilent, limit / 2))
      return fmt::format("rank {} hangs: no progress for {:.0f} s {}; its process does not run",
                         s.rank, silence, place(s));
    // Of those that run, the one that is not waiting for others; else the one furthest behind.
    const auto behind = [](const Seen& a) {
      return std::pair(a.waiting != Collective::none, a.collectives);
    };
    if (!stuck || behind(s) < behind(*stuck)) stuck = &s;
  }
  if (!stuck) return std::nullopt;
  if (stuck->waiting == Collective::none)
    return fmt::format("rank {} hangs: no progress for {:.0f} s {}", stuck->rank, longest_silence,
                       place(*stuck));
  // Somebody who is waited for and still moves, if slowly, is not stuck.
  for (size_t r = 0; r < seen.size(); ++r)
    if (now - known_[r].progress_at <= limit) return std::nullopt;
  if (int(seen.size()) < options_.ranks)
    return fmt::format(
        "no progress for {:.0f} s: the ranks of this machine wait for those of another, rank {} "
        "{}",
        longest_silence, stuck->rank, place(*stuck));
  return fmt::format(
      "no progress for {:.0f} s: all ranks wait, rank {} {}; QAT_CHECK_COLLECTIVES=1 names a rank "
      "that does not do what the others do",
      longest_silence, stuck->rank, place(*stuck));
}

}  // namespace qat
