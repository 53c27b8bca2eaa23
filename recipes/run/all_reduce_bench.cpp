#include "recipes/run/all_reduce_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

namespace qat {

void bench_all_reduce(Communicator& ranks, const std::vector<int64_t>& sizes) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 5;
  for (const int64_t mebibytes : sizes) {
    std::vector<float> data(size_t(mebibytes) << 18, 1.0f), other(data.size(), 0.0f);
    const double bytes = double(data.size() * sizeof(float));
    const auto gigabytes_per_second = [&](const std::function<void()>& work) {
      double best = 0;
      for (int round = 0; round < kRounds; ++round) {
        ranks.barrier();
        const auto start = Clock::now();
        work();
        best = std::max(best,
                        1e-9 * bytes / std::chrono::duration<double>(Clock::now() - start).count());
      }
      return best;
    };
    const double reduced = gigabytes_per_second([&] { ranks.all_reduce(data); });
    const double copied = gigabytes_per_second(
        [&] { std::memcpy(other.data(), data.data(), data.size() * sizeof(float)); });
    const nlohmann::ordered_json line = {{"ranks", ranks.size()},
                                         {"ranks_are", ranks.describe()},
                                         {"mebibytes", mebibytes},
                                         {"all_reduce_gb_per_s", reduced},
                                         {"memcpy_gb_per_s", copied}};
    if (ranks.rank() == 0) std::printf("%s\n", line.dump().c_str());
  }
}

}  // namespace qat
