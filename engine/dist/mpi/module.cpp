// The way into libqat_mpi.so.
#include "engine/dist/mpi/module.h"

#include <cstdlib>
#include <string_view>

#include "engine/core/error.h"
#include "engine/dist/mpi/mpi_communicator.h"

namespace qat {
namespace {

std::unique_ptr<Communicator> start(const Launch& launch) {
  auto session = std::make_unique<MpiSession>(launch);
  const char* wanted = std::getenv("QAT_MPI_TRANSPORT");
  const std::string_view transport = wanted ? wanted : "auto";
  if (transport != "auto" && transport != "window" && transport != "messages")
    refuse("environment: QAT_MPI_TRANSPORT: expected auto, window or messages, got \"{}\"",
           transport);
  const bool one_node = session->nodes() == 1;
  if (transport == "window" && !one_node)
    refuse(
        "environment: QAT_MPI_TRANSPORT: a window is memory of one node, but the ranks are on "
        "{}; use auto or messages",
        session->nodes());
  return one_node && transport != "messages" ? window_communicator(std::move(session))
                                             : message_communicator(std::move(session));
}

}  // namespace
}  // namespace qat

extern "C" __attribute__((visibility("default"))) qat::Communicator* qat_open_mpi_communicator(
    const qat::Launch& launch) {
  return qat::start(launch).release();
}
