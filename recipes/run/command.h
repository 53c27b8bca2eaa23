// What every command's main does the same way: parse the command line, run, and end with one line
// on stderr and an exit code (engine/core/error.h).
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string_view>

#include "engine/core/error.h"
#include "engine/dist/health.h"

namespace qat {

/// Parses argv with `app` (whose name is the command's), then runs `body`. --help goes to stdout. A
/// reader that closes our output early (`| head`) is no error. The log goes to stderr;
/// QAT_LOG=debug shows more of it.
int run_command(CLI::App& app, int argc, char** argv, const std::function<Exit()>& body);

/// The same among the ranks that mpirun or srun started this process as one of; `body` does what
/// they do together through the RunHealth. Where one of them fails, all leave with its exit code,
/// and one says why.
int run_command_among_ranks(CLI::App& app, int argc, char** argv,
                            const std::function<Exit(RunHealth&)>& body);

/// Writes to stdout. Throws Error(cannot_write) with the cause; a closed pipe ends the command with
/// success.
void write_output(std::string_view text);

}  // namespace qat
