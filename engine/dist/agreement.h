// What the ranks of a run tell each other so that all go the same way.
#pragma once

#include <string>
#include <vector>

#include "engine/core/error.h"
#include "engine/dist/communicator.h"

namespace qat {

/// True on every rank if it is on any.
bool of_any(Communicator& ranks, bool mine);
/// What rank 0 says.
std::string of_first(Communicator& ranks, const std::string& mine);

/// Work that leaves something (a token cache) which the others then find.
template <class Work>
void first_then_others(Communicator& ranks, const Work& work) {
  if (ranks.rank() != 0) ranks.barrier();
  work();
  if (ranks.rank() == 0) ranks.barrier();
}

/// A fact that every rank must have alike.
struct Fact {
  std::string name;
  std::string value;
};
/// Throws Error(code) on every rank, naming the first fact that differs from rank 0's and whose it
/// is. All ranks list the same names.
void require_alike(Communicator& ranks, const std::vector<Fact>& facts, Exit code,
                   const std::string& what_to_do);

}  // namespace qat
