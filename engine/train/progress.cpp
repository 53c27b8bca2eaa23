// The progress line; see the header.
#include "engine/train/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace qat {
namespace {

constexpr size_t kColumns = 80;
constexpr auto kRedraw = std::chrono::milliseconds(100);

size_t columns_of(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kColumns;
  return std::min<size_t>(kColumns, size.ws_col);
}

std::string rate_text(double per_second) {
  if (per_second >= 9'999.5) return fmt::format("{:.1f}k", per_second / 1000);
  return fmt::format("{:.0f}", per_second);
}

}  // namespace

std::string duration_text(double seconds) {
  const int64_t s = std::llround(std::clamp(seconds, 0.0, 1e12));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string progress_text(const Progress& progress, double seconds_left, size_t columns) {
  struct Part {
    int worth;  ///< the lowest goes first
    std::string text;
  };
  const int width = int(std::to_string(progress.total).size());
  std::vector<Part> parts = {{9, fmt::format("{:{}}/{}", progress.step, width, progress.total)},
                             {8, fmt::format("loss {:.4f}", progress.loss)}};
  if (progress.kl) parts.push_back({7, fmt::format("kl {:.4g}", *progress.kl)});
  parts.push_back({1, fmt::format("lr {:.2e}", progress.learning_rate)});
  if (progress.layers > 0)
    parts.push_back({3, fmt::format("q {}/{}", progress.enabled_layers, progress.layers)});
  parts.push_back({5, rate_text(progress.tokens_per_second) + " tok/s"});
  if (progress.percent_of_peak)
    parts.push_back({4, fmt::format("{:.0f}% peak", *progress.percent_of_peak)});
  if (seconds_left >= 0) parts.push_back({6, duration_text(seconds_left) + " left"});
  for (;;) {
    std::string line;
    for (const Part& part : parts) line += (line.empty() ? "" : "  ") + part.text;
    if (line.size() <= columns) return line;
    if (parts.size() == 1) return line.substr(0, columns);
    parts.erase(std::min_element(parts.begin(), parts.end(),
                                 [](const Part& a, const Part& b) { return a.worth < b.worth; }));
  }
}

ProgressLine::ProgressLine(std::FILE* out, int64_t every)
    : out_(out),
      kind_(isatty(fileno(out)) ? Kind::terminal : Kind::plain),
      every_(std::max<int64_t>(every, 1)) {}

ProgressLine::~ProgressLine() {
  if (!shown_.empty()) std::fputc('\n', out_);
  std::fflush(out_);
  std::clearerr(out_);
}

void ProgressLine::update(const Progress& progress) {
  constexpr double kKeep = 0.9;
  smoothed_seconds_ = smoothed_seconds_ == 0
                          ? progress.step_seconds
                          : kKeep * smoothed_seconds_ + (1 - kKeep) * progress.step_seconds;
  const double left = smoothed_seconds_ * double(progress.total - progress.step);
  const bool last = progress.step >= progress.total;
  if (kind_ == Kind::plain) {
    if (progress.step % every_ == 0 || progress.step == 1 || last)
      draw(progress_text(progress, left, std::string::npos) + "\n");
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (!last && !shown_.empty() && now - drawn_ < kRedraw) return;
  drawn_ = now;
  // The last column stays free: some terminals wrap as soon as it is written.
  shown_ = progress_text(progress, left, columns_of(out_) - 1);
  draw("\r" + shown_ + "\x1b[K");
}

void ProgressLine::clear() {
  if (shown_.empty()) return;
  shown_.clear();
  draw("\r\x1b[K");
}

void ProgressLine::draw(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), out_);
  std::fflush(out_);
  std::clearerr(out_);
}

}  // namespace qat
