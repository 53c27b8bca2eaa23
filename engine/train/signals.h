// Signals that ask a run to stop. The handler only sets a flag; the trainer looks at it once a
// step, saves and leaves with 85. A second SIGINT (a second Ctrl-C) leaves at once with 130, saving
// nothing.
#pragma once

#include <span>

namespace qat {

/// Catches `signals` (by default SIGTERM, SIGINT, SIGUSR1, SIGUSR2) with the flag, and ignores
/// SIGPIPE and SIGXFSZ, so that a closed pipe or a file size limit is an error code of a write.
/// Call again after a library that takes signals for itself has started.
void catch_stop_signals();
void catch_stop_signals(std::span<const int> signals);

/// The first signal that asked to stop since the last reset; 0 when none did.
int stop_signal();
/// "SIGUSR1" for a signal number.
const char* signal_name(int signal);
/// Forgets what arrived (tests, and commands that run several jobs).
void reset_stop_signal();

}  // namespace qat
