// What the command and libqat_mpi.so know of each other.
#pragma once

#include "engine/dist/communicator.h"
#include "engine/dist/launch.h"

namespace qat {

inline constexpr const char* kMpiModule = "libqat_mpi.so";

/// Starts MPI. Throws Error(refused) where it counts otherwise than the environment does.
using OpenMpiCommunicator = Communicator*(const Launch&);
inline constexpr const char* kOpenMpiCommunicator = "qat_open_mpi_communicator";

}  // namespace qat
