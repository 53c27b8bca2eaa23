// Charts as inline SVG, drawn by hand: colours come from the page's style sheet, so that they
// follow light, dark and print; series differ by dashes too. Each has a title and a description for
// those who do not see it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "recipes/run/report/markup.h"

namespace qat::report {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< rising x; y that is not finite is left out
};

/// A vertical line across a chart.
struct Mark {
  double x;
  std::string label;
};

enum class Axis { linear, logarithmic };

struct LineChart {
  std::string title, description, x_label, y_label;
  std::vector<Series> series = {};
  std::vector<Mark> marks = {};
  Axis y = Axis::linear;
};
Markup draw(const LineChart& chart);

struct BarChart {
  std::string title, description, value_label;
  std::vector<std::pair<std::string, double>> bars = {};  ///< values from 0 up
};
Markup draw(const BarChart& chart);

struct HeatMap {
  std::string title, description, row_label, column_label;
  std::vector<std::string> rows = {}, columns = {};
  std::vector<double> shares = {};  ///< row after row, 0 to 1; below 0: not measured
};
/// A table whose cells are shaded; the shares are written in them.
Markup draw(const HeatMap& map);

/// Round numbers that span low..high, about `count` of them.
std::vector<double> ticks(double low, double high, int count);
/// "0.05", "1200", "3e-06".
std::string number_text(double value);

}  // namespace qat::report
