#include "recipes/run/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace qat::report {
namespace {

// In units of the view box; the picture scales with the page.
constexpr double kWidth = 720, kHeight = 300;
constexpr double kLeft = 72, kRight = 16, kTop = 28, kBottom = 48;
constexpr size_t kMostPoints = 600;
constexpr size_t kColours = 6;

std::string at(double value) {
  return fmt::format("{:.1f}", value);
}

Markup label(double x, double y, const char* anchor, std::string_view plain,
             const char* css = "axis") {
  return element("text", {{"x", at(x)}, {"y", at(y)}, {"text-anchor", anchor}, {"class", css}},
                 text(plain));
}

Markup line(double x1, double y1, double x2, double y2, const char* css) {
  return element("line",
                 {{"x1", at(x1)}, {"y1", at(y1)}, {"x2", at(x2)}, {"y2", at(y2)}, {"class", css}});
}

Markup figure(const std::string& title, const std::string& description, double height,
              const Markup& picture, const Markup& legend = {}) {
  const Markup svg = element("svg",
                             {{"viewBox", fmt::format("0 0 {} {}", kWidth, height)},
                              {"role", "img"},
                              {"aria-label", title + ". " + description}},
                             picture);
  const Markup caption =
      element("figcaption", element("strong", title) + text(". ") + text(description));
  return element("figure", caption + legend + svg);
}

// What a series covers, of finite values that the axis can show.
struct Extent {
  double low = INFINITY, high = -INFINITY;
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool any() const { return low <= high; }
};

bool shown(double y, Axis axis) {
  return std::isfinite(y) && (axis == Axis::linear || y > 0);
}

class Plot {
 public:
  explicit Plot(const LineChart& chart) : chart_(chart) {
    for (const Series& series : chart.series)
      for (const auto& [x, y] : series.points)
        if (shown(y, chart.y)) {
          x_.add(x);
          y_.add(transformed(y));
        }
    if (!y_.any()) return;
    if (x_.low == x_.high) x_.high += 1;
    // A flat curve is shown in the middle of what is near it.
    const double space =
        y_.high > y_.low ? 0.05 * (y_.high - y_.low) : std::abs(y_.low) * 0.1 + 0.1;
    const bool from_zero = chart.y == Axis::linear && y_.low >= 0 && y_.low < 0.3 * y_.high;
    y_.low = from_zero ? 0 : y_.low - space;
    y_.high += space;
  }

  bool any() const { return y_.any(); }

  Markup picture() const {
    Markup result = axes();
    double last_label = -1e9;
    for (const Mark& mark : chart_.marks) {
      const double x = x_of(mark.x);
      if (x < kLeft || x > kWidth - kRight) continue;
      result += line(x, kTop, x, kHeight - kBottom, "mark");
      if (x - last_label < 7.0 * double(mark.label.size())) continue;
      result += label(x + 3, kTop + 10, "start", mark.label, "marklabel");
      last_label = x;
    }
    for (size_t i = 0; i < chart_.series.size(); ++i) result += curve(i);
    return result;
  }

 private:
  double transformed(double y) const { return chart_.y == Axis::logarithmic ? std::log10(y) : y; }
  double x_of(double x) const {
    return kLeft + (x - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight);
  }
  double y_of(double transformed_y) const {
    return kHeight - kBottom -
           (transformed_y - y_.low) / (y_.high - y_.low) * (kHeight - kTop - kBottom);
  }

  Markup axes() const {
    Markup result;
    for (const double tick : ticks(x_.low, x_.high, 8)) {
      result += line(x_of(tick), kHeight - kBottom, x_of(tick), kHeight - kBottom + 5, "grid");
      result += label(x_of(tick), kHeight - kBottom + 18, "middle", number_text(tick));
    }
    for (const double tick : y_ticks()) {
      const double y = y_of(transformed(tick));
      result += line(kLeft, y, kWidth - kRight, y, "grid");
      result += label(kLeft - 8, y + 4, "end", number_text(tick));
    }
    result += label((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", chart_.x_label);
    result += label(8, 16, "start", chart_.y_label);
    return result;
  }

  std::vector<double> y_ticks() const {
    if (chart_.y == Axis::linear) return ticks(y_.low, y_.high, 6);
    std::vector<double> powers;
    for (double p = std::ceil(y_.low); p <= y_.high; ++p) powers.push_back(std::pow(10.0, p));
    if (powers.size() >= 2) return powers;
    std::vector<double> near;
    for (const double tick : ticks(std::pow(10.0, y_.low), std::pow(10.0, y_.high), 6))
      if (tick > 0) near.push_back(tick);
    return near;
  }

  Markup curve(size_t which) const {
    const auto& points = chart_.series[which].points;
    const size_t step = std::max<size_t>(1, (points.size() + kMostPoints - 1) / kMostPoints);
    std::string path;
    bool pen_down = false;
    for (size_t i = 0; i < points.size(); ++i) {
      const auto& [x, y] = points[i];
      if (i % step != 0 && i + 1 != points.size()) continue;
      if (!shown(y, chart_.y)) {
        pen_down = false;
        continue;
      }
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", x_of(x), y_of(transformed(y)));
      pen_down = true;
    }
    return element("path", {{"d", path}, {"class", fmt::format("curve c{}", which % kColours)}});
  }

  const LineChart& chart_;
  Extent x_, y_;
};

}  // namespace

std::vector<double> ticks(double low, double high, int count) {
  if (!(high > low) || count < 1) return {low};
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = power;
  for (const double factor : {2.0, 5.0, 10.0})
    if (step < rough) step = factor * power;
  std::vector<double> result;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i)
    result.push_back(i == 0 ? 0.0 : i * step);
  return result;
}

std::string number_text(double value) {
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (size >= 1e-4 && size < 1e6) {
    std::string digits = fmt::format("{:.{}f}", value, size >= 100 ? 0 : size >= 1 ? 2 : 5);
    if (digits.find('.') != std::string::npos) {
      digits.erase(digits.find_last_not_of('0') + 1);
      if (digits.ends_with('.')) digits.pop_back();
    }
    return digits;
  }
  return fmt::format("{:.3g}", value);
}

Markup draw(const LineChart& chart) {
  const Plot plot(chart);
  if (!plot.any()) return {};
  Markup legend;
  if (chart.series.size() > 1) {
    for (size_t i = 0; i < chart.series.size(); ++i) {
      const Markup swatch = element(
          "svg", {{"viewBox", "0 0 28 8"}, {"class", "swatch"}, {"aria-hidden", "true"}},
          element("path", {{"d", "M0 4L28 4"}, {"class", fmt::format("curve c{}", i % kColours)}}));
      legend += element("li", swatch + text(chart.series[i].name));
    }
    legend = element("ul", {{"class", "legend"}}, legend);
  }
  return figure(chart.title, chart.description, kHeight, plot.picture(), legend);
}

Markup draw(const BarChart& chart) {
  constexpr double kBar = 14, kStep = 19, kNames = 150, kValues = 80;
  double most = 0;
  for (const auto& [name, value] : chart.bars)
    if (std::isfinite(value)) most = std::max(most, value);
  if (most <= 0) return {};
  Markup picture = label(kNames, 12, "start", chart.value_label);
  double y = 20;
  for (const auto& [name, value] : chart.bars) {
    const double width = std::max(0.0, value) / most * (kWidth - kNames - kValues);
    picture += label(kNames - 8, y + kBar - 3, "end", name);
    picture += element("rect", {{"x", at(kNames)},
                                {"y", at(y)},
                                {"width", at(std::max(width, 0.5))},
                                {"height", at(kBar)},
                                {"class", "bar"}});
    picture += label(kNames + width + 6, y + kBar - 3, "start", number_text(value));
    y += kStep;
  }
  return figure(chart.title, chart.description, y + 4, picture);
}

Markup draw(const HeatMap& map) {
  Markup head = element("th", {{"scope", "col"}}, text(map.row_label + " / " + map.column_label));
  for (const std::string& column : map.columns)
    head += element("th", {{"scope", "col"}}, text(column));
  Markup body;
  for (size_t r = 0; r < map.rows.size(); ++r) {
    Markup row = element("th", {{"scope", "row"}}, text(map.rows[r]));
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const double share = map.shares.at(r * map.columns.size() + c);
      if (share < 0) {
        row += element("td", {{"class", "none"}}, text("–"));
        continue;
      }
      const int level = int(std::lround(std::clamp(share, 0.0, 1.0) * 4));
      row += element("td", {{"class", fmt::format("heat h{}", level)}},
                     text(fmt::format("{:.0f}%", 100 * share)));
    }
    body += element("tr", row);
  }
  const Markup caption =
      element("caption", element("strong", map.title) + text(". ") + text(map.description));
  return element(
      "div", {{"class", "scroll"}},
      element("table", caption + element("thead", element("tr", head)) + element("tbody", body)));
}

}  // namespace qat::report
