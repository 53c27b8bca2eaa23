// report.html: what a finished run is to be told by, in one file that opens without a network.
#pragma once

#include <string>
#include <vector>

#include "recipes/run/report/markup.h"
#include "recipes/run/report/run_record.h"

namespace qat::report {

/// The page of one run, or of several side by side.
std::string page(const RunRecord& run);
std::string page(const std::vector<RunRecord>& runs);

/// Writes page(run) as report.html into the run's directory and returns its path. A report that
/// cannot be made or written is warned about and no failure of the run.
void write_report(const RunRecord& run);

/// qat-train --report: rewrites the report of one run, or compares several in `out` (a file; empty:
/// comparison.html here). Returns the path.
std::string report_command(const std::vector<std::string>& directories, const std::string& out);

}  // namespace qat::report
