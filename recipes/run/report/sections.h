// The sections of a report; each is empty where the run has nothing to say there. With several runs
// a section sets them side by side.
#pragma once

#include <vector>

#include "recipes/run/report/markup.h"
#include "recipes/run/report/run_record.h"

namespace qat::report {

using Runs = std::vector<RunRecord>;

// sections_quality.cpp
Markup perplexities(const Runs& runs);
Markup tasks(const Runs& runs);
Markup agreement(const Runs& runs);
Markup passkeys(const Runs& runs);
Markup generation(const Runs& runs);
Markup samples(const Runs& runs);
// sections_training.cpp
Markup curves(const Runs& runs);
Markup sensitivity(const Runs& runs);
Markup distributions(const Runs& runs);
// sections_deployment.cpp
Markup sizes(const Runs& runs);
Markup memory(const Runs& runs);
Markup speed(const Runs& runs);
Markup exports(const Runs& runs);
Markup reproduction(const Runs& runs);

/// <section> with a heading; empty if the content is.
Markup section(const char* id, const char* title, const Markup& content);
/// A table that scrolls sideways where the page is narrow. The first column heads its rows.
Markup table(std::string_view caption, const std::vector<std::string>& head,
             const std::vector<std::vector<Markup>>& rows);
Markup paragraph(std::string_view plain);
/// "48.51 (47.90 to 49.20)" with the interval set smaller.
Markup with_interval(double value, const Interval& interval, int digits);
/// In front of a row where there are several runs.
std::string run_prefix(const Runs& runs, const RunRecord& run);
/// "QAT (trained)" for "qat".
std::string stage_name(const std::string& stage);
inline constexpr const char* kStages[] = {"source", "ptq", "qat", "trained"};

}  // namespace qat::report
