// What every command's main does the same way: parse the command line, run, and end with one line
// on stderr and an exit code (engine/core/error.h).
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string_view>

#include "engine/core/error.h"

namespace qat {

/// Parses argv with `app` (whose name is the command's), then runs `body`. --help goes to stdout. A
/// reader that closes our output early (`| head`) is no error. The log goes to stderr;
/// QAT_LOG=debug shows more of it.
int run_command(CLI::App& app, int argc, char** argv, const std::function<Exit()>& body);

/// Writes to stdout. Throws Error(cannot_write) with the cause; a closed pipe ends the command with
/// success.
void write_output(std::string_view text);

}  // namespace qat
