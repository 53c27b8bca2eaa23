// Text stays text, whatever it says.
#include "recipes/run/report/markup.h"

#include <gtest/gtest.h>

#include <cmath>

#include "recipes/run/report/chart.h"

namespace qat::report {
namespace {

TEST(Markup, TextIsEscaped) {
  EXPECT_EQ(text("<script>a && 'b' \"c\"</script>").html(),
            "&lt;script&gt;a &amp;&amp; &#39;b&#39; &quot;c&quot;&lt;/script&gt;");
  EXPECT_EQ(text("línea\n\t日本 🙂").html(), "línea\n\t日本 🙂");
}

TEST(Markup, WhatHtmlCannotHoldIsReplaced) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(text(std::string_view("a\0b\x1b[1m\x7f", 8)).html(),
            "a" + bad + "b" + bad + "[1m" + bad);
  EXPECT_EQ(text("\xFF\xC3").html(), bad + bad);
  EXPECT_EQ(text("\xC0\xBC").html(), bad + bad);                   // an overlong <
  EXPECT_EQ(text("\xED\xA0\x80").html(), bad + bad + bad);         // half of a surrogate pair
  EXPECT_EQ(text("\xE2\x82<b>").html(), bad + bad + "&lt;b&gt;");  // cut in the middle
}

TEST(Markup, AttributesCannotBeLeft) {
  EXPECT_EQ(element("a", {{"title", "\" onclick=\"x"}}, text("t")).html(),
            "<a title=\"&quot; onclick=&quot;x\">t</a>");
}

TEST(Ticks, AreRoundAndCoverTheRange) {
  EXPECT_EQ(ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(ticks(1, 24, 8), (std::vector<double>{5, 10, 15, 20}));
  for (const auto& [low, high] : {std::pair{0.013, 0.0172}, {-3.0, 5.0}, {1e-7, 3e-7}})
    for (const double tick : ticks(low, high, 6)) {
      EXPECT_GE(tick, low - 1e-9 * std::abs(high));
      EXPECT_LE(tick, high + 1e-9 * std::abs(high));
    }
}

TEST(Numbers, AreShort) {
  EXPECT_EQ(number_text(0), "0");
  EXPECT_EQ(number_text(0.05), "0.05");
  EXPECT_EQ(number_text(1200), "1200");
  EXPECT_EQ(number_text(3e-6), "3e-06");
  EXPECT_EQ(number_text(12.5), "12.5");
}

std::string svg(const LineChart& chart) {
  return draw(chart).html();
}

TEST(LineChart, SurvivesWhatIsNotANumber) {
  LineChart chart{.title = "t", .description = "d", .x_label = "x", .y_label = "y", .series = {}};
  EXPECT_EQ(svg(chart), "");
  chart.series = {{"a", {{1, NAN}, {2, INFINITY}}}};
  EXPECT_EQ(svg(chart), "");
  chart.series = {{"a", {{1, 2}, {2, NAN}, {3, 4}}}};
  const std::string broken = svg(chart);
  EXPECT_EQ(broken.find("nan"), std::string::npos);
  EXPECT_NE(broken.find("role=\"img\""), std::string::npos);
  chart.series = {{"a", {{1, 2}}}};  // a single point
  EXPECT_EQ(svg(chart).find("nan"), std::string::npos);
  chart.y = Axis::logarithmic;
  chart.series = {{"a", {{1, 0}, {2, 1e-3}, {3, 1}}}};  // nothing at 0 on such an axis
  EXPECT_EQ(svg(chart).find("nan"), std::string::npos);
  EXPECT_EQ(svg(chart).find("inf"), std::string::npos);
}

TEST(LineChart, ManyPointsAreThinned) {
  LineChart chart{.title = "t", .description = "d", .x_label = "x", .y_label = "y", .series = {}};
  Series series{"a", {}};
  for (int i = 0; i < 100000; ++i) series.points.emplace_back(i, std::sin(i / 1e4));
  chart.series = {series};
  EXPECT_LT(svg(chart).size(), 30000u);
}

}  // namespace
}  // namespace qat::report
