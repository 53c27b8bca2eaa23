// What both ways to move data (a shared window on one node, messages across nodes) have in common.
#pragma once

#include <memory>

#include "engine/dist/communicator.h"
#include "engine/dist/mpi/session.h"

namespace qat {

class MpiCommunicator : public Communicator {
 public:
  explicit MpiCommunicator(std::unique_ptr<MpiSession> session) : session_(std::move(session)) {}

  int rank() const override { return session_->rank(); }
  int size() const override { return session_->size(); }
  int local_rank() const override { return session_->local_rank(); }
  int local_size() const override { return session_->local_size(); }
  int threads() const override { return local_size() > 1 ? session_->processors() : 0; }
  std::string describe() const override;
  using Communicator::all_gather;
  std::vector<std::string> all_gather(const std::string& text) override;
  [[noreturn]] void abort(int code) override;

 protected:
  MpiSession& session() { return *session_; }
  const MpiSession& session() const { return *session_; }
  /// Throws Error(internal) unless there is a piece for every rank, in order and within `items`.
  void require_pieces(const char* collective, Pieces pieces, int64_t items) const;
  int64_t length(Pieces pieces, int rank) const {
    return pieces[size_t(rank) + 1] - pieces[size_t(rank)];
  }
  int64_t longest(Pieces pieces) const;
  /// `items` in pieces that differ by one item at most.
  std::vector<int64_t> even_pieces(int64_t items) const;

 private:
  std::unique_ptr<MpiSession> session_;
};

/// Through memory that the ranks of one node share.
std::unique_ptr<Communicator> window_communicator(std::unique_ptr<MpiSession> session);
/// Through messages, over any number of nodes.
std::unique_ptr<Communicator> message_communicator(std::unique_ptr<MpiSession> session);

}  // namespace qat
