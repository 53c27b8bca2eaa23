#include "engine/dist/mpi/mpi_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "engine/core/error.h"

namespace qat {

std::string MpiCommunicator::describe() const {
  return fmt::format("MPI ({}), {} rank{} on {} node{}", session_->library(), size(),
                     size() == 1 ? "" : "s", session_->nodes(), session_->nodes() == 1 ? "" : "s");
}

std::vector<std::string> MpiCommunicator::all_gather(const std::string& text) {
  std::vector<int64_t> lengths(size_t(size()), 0);
  lengths[size_t(rank())] = int64_t(text.size());
  all_reduce_max(lengths);
  std::vector<int64_t> pieces(1, 0);
  for (const int64_t length : lengths) pieces.push_back(pieces.back() + length);
  std::string all(size_t(pieces.back()), '\0');
  std::copy(text.begin(), text.end(), all.begin() + pieces[size_t(rank())]);
  all_gather(all.data(), 1, pieces);
  std::vector<std::string> texts;
  for (size_t r = 0; r < lengths.size(); ++r)
    texts.push_back(all.substr(size_t(pieces[r]), size_t(lengths[r])));
  return texts;
}

void MpiCommunicator::abort(int code) {
  std::fflush(nullptr);
  MPI_Abort(session_->world(), code);
  std::_Exit(code);
}

void MpiCommunicator::require_pieces(const char* collective, Pieces pieces, int64_t items) const {
  const bool fit = pieces.size() == size_t(size()) + 1 && pieces.front() >= 0 &&
                   std::is_sorted(pieces.begin(), pieces.end()) &&
                   (items < 0 || pieces.back() <= items);
  if (!fit)
    internal_error("{}: expected {} pieces in order, within {} items, got {} from {} to {}",
                   collective, size(), items, int64_t(pieces.size()) - 1,
                   pieces.empty() ? 0 : pieces.front(), pieces.empty() ? 0 : pieces.back());
}

int64_t MpiCommunicator::longest(Pieces pieces) const {
  int64_t most = 0;
  for (int r = 0; r < size(); ++r) most = std::max(most, length(pieces, r));
  return most;
}

std::vector<int64_t> MpiCommunicator::even_pieces(int64_t items) const {
  std::vector<int64_t> pieces;
  for (int64_t r = 0; r <= size(); ++r)
    pieces.push_back(items / size() * r + std::min<int64_t>(r, items % size()));
  return pieces;
}

}  // namespace qat
