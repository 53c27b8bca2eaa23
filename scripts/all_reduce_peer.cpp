// MPI_Allreduce beside `qat-bench --all-reduce`, on the same sizes and in the same way:
//   mpicxx -O2 -o all_reduce_peer scripts/all_reduce_peer.cpp && mpirun -n 2 ./all_reduce_peer 64
//   512
// Prints GB/s of the best of five.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int a = 1; a < count; ++a) {
    std::vector<float> data(std::atoll(arguments[a]) << 18, 1.0F);
    double least = 1e30;
    for (int round = 0; round < 5; ++round) {
      MPI_Barrier(MPI_COMM_WORLD);
      const double start = MPI_Wtime();
      MPI_Allreduce(MPI_IN_PLACE, data.data(), int(data.size()), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
      least = std::min(least, MPI_Wtime() - start);
    }
    if (rank == 0)
      std::printf("%s MiB: %.2f GB/s\n", arguments[a],
                  1e-9 * double(data.size() * sizeof(float)) / least);
  }
  MPI_Finalize();
}
