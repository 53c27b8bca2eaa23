// The ranks of one run and what they do together. A single process is one rank and needs no MPI;
// several are started by mpirun or srun and speak MPI, which is opened at run time. Sums are taken
// in the order of the ranks: the same bits on every rank, every time, over any transport.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace qat {

/// Where the piece of each rank begins in a row of items; size() + 1 numbers, the last the end.
using Pieces = std::span<const int64_t>;

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Among the ranks of this node.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  /// The threads this rank runs where nothing else says how many: its share of the processors of
  /// the node, if it shares them with other ranks; 0 where it does not (what OpenMP takes).
  virtual int threads() const { return 0; }
  /// For the log: "single process", "MPI (Open MPI 4.1.4), 2 ranks on 1 node".
  virtual std::string describe() const = 0;

  /// data = its sum over the ranks.
  virtual void all_reduce(std::span<float> data) = 0;
  virtual void all_reduce(std::span<double> data) = 0;
  /// data = the largest over the ranks.
  virtual void all_reduce_max(std::span<int64_t> data) = 0;
  /// mine = the sum over the ranks of this rank's piece of their data; mine may be that piece.
  virtual void reduce_scatter(std::span<const float> data, Pieces pieces,
                              std::span<float> mine) = 0;
  /// Every rank has its own piece of data (items of item_bytes), and gets the others'.
  virtual void all_gather(void* data, size_t item_bytes, Pieces pieces) = 0;
  /// data of rank `root` on every rank.
  virtual void broadcast(void* data, size_t bytes, int root) = 0;
  /// What every rank says, in the order of the ranks, on every rank.
  virtual std::vector<std::string> all_gather(const std::string& text) = 0;
  virtual void barrier() = 0;
  /// Ends every rank's process with this exit code; called by one rank that cannot go on.
  [[noreturn]] virtual void abort(int code) = 0;
};

/// The ranks this process was started among, as the environment of mpirun or srun tells; one
/// process without MPI where it tells of none. Throws Error(refused) where it tells of several and
/// MPI cannot be opened or counts differently: N runs of their own in one directory must never be.
/// QAT_CHECK_COLLECTIVES=1 compares before every collective what each rank is about to do; where
/// they differ it throws Error(rank_failed) that names both.
std::unique_ptr<Communicator> open_communicator();

/// One process.
std::unique_ptr<Communicator> single_process();

/// Rank 0 of so many that are not there, for plans: it tells their number and exchanges nothing.
std::unique_ptr<Communicator> planned_ranks(int size);

/// Threads for a Stream (0: what OpenMP takes): where ranks share a node and OMP_NUM_THREADS is not
/// set, this rank's share of the processors.
int default_threads(const Communicator& ranks);

}  // namespace qat
