#include "engine/train/time_limit.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

namespace qat {
namespace {

constexpr double kSpareShare = 0.25, kSpareSeconds = 2.0;

TimeLimit::Clock::duration seconds(double count) {
  return std::chrono::duration_cast<TimeLimit::Clock::duration>(
      std::chrono::duration<double>(count));
}

}  // namespace

TimeLimit::TimeLimit(double minutes, const char* job_end, Clock::time_point start) {
  if (minutes > 0) end_ = start + seconds(60 * minutes);
  if (job_end == nullptr) return;
  int64_t since_1970 = 0;
  const char* last = job_end + std::strlen(job_end);
  const auto read = std::from_chars(job_end, last, since_1970);
  if (read.ec != std::errc() || read.ptr != last) return;
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  constexpr double kYears = 1e9;  // more than a clock can hold is no limit
  if (double(since_1970) - now > kYears) return;
  const Clock::time_point end = Clock::now() + seconds(std::max(0.0, double(since_1970) - now));
  end_ = end_ ? std::min(*end_, end) : end;
}

double TimeLimit::seconds_left() const {
  if (!end_) return std::numeric_limits<double>::infinity();
  return std::chrono::duration<double>(*end_ - Clock::now()).count();
}

bool TimeLimit::leaves_room_for(double step_seconds, double save_seconds) const {
  return seconds_left() >= (1 + kSpareShare) * (step_seconds + save_seconds) + kSpareSeconds;
}

}  // namespace qat
