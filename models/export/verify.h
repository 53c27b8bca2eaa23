// Reads an export back by the reader's own code and compares it with what training ended with.
#pragma once

#include <functional>
#include <string>

#include "models/export/export_model.h"
#include "models/export/staged_directory.h"

namespace qat {

/// Opens `directory` as a model and compares every tensor bit for bit: codes, scales and zero
/// points where they are stored, else the values rounded to the stored type. "" or what differs
/// first.
std::string find_difference(const std::string& directory, const ExportModel& model);

/// find_difference, then the model's own check.
std::string find_fault(const std::string& directory, const ExportModel& model);

/// Throws Error(not_verified) if `check` returns a difference or cannot read the export; what was
/// written is then kept under `<name>.not-verified`.
void verify_or_keep(StagedDirectory& staged, const std::function<std::string()>& check);

}  // namespace qat
