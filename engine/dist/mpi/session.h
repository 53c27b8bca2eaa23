// MPI itself: started once, ended once, and what it knows of the ranks.
#pragma once

#include <mpi.h>

#include <string>

#include "engine/dist/launch.h"

namespace qat {

/// Throws Error(rank_failed) with MPI's own words unless `code` is success; `call` is "MPI_Isend".
void require(int code, const char* call);

/// Lives as long as MPI is needed. Ending it waits for all ranks, except while an exception is on
/// its way: then the others may never come.
class MpiSession {
 public:
  explicit MpiSession(const Launch& launch);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  MPI_Comm world() const { return world_; }
  MPI_Comm node() const { return node_; }  ///< the ranks of this node
  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  int nodes() const { return nodes_; }
  /// This rank's share of the processors it may run on: each is divided among the ranks of the node
  /// that may run on it.
  int processors() const { return processors_; }
  /// More ranks than processors.
  bool crowded() const { return crowded_; }
  std::string library() const;  ///< "Open MPI 4.1.4"

 private:
  MPI_Comm world_ = MPI_COMM_NULL, node_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, nodes_ = 1, processors_ = 1;
  bool crowded_ = false;
};

}  // namespace qat
