// collectives MODE, started by mpirun with any number of ranks:
//   check     every collective beside a serial sum in the order of the ranks, bit for bit
//   print     one line a rank: what it knows of itself, and a checksum of sums
//   astray    rank 1 posts a barrier that no other rank knows of
//   abort     rank 1 gives up with 4 while the others wait for it
//   late      rank 1 comes to a barrier 2 s after the others, which print the processor time it
//   cost speed     GB/s of all_reduce beside those of memcpy
#include <sys/resource.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string_view>
#include <thread>

#include "engine/core/error.h"
#include "engine/core/hash.h"
#include "engine/dist/communicator.h"

namespace qat {
namespace {

uint64_t mix(uint64_t x) {  // splitmix64
  x = (x + 0x9E3779B97F4A7C15ULL) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// What rank `rank` has at index i: sums of these depend on their order.
template <class T>
T value(int rank, int64_t i) {
  const uint64_t bits = mix(uint64_t(rank + 1) * 1'000'003 + uint64_t(i));
  const double unit = double(int64_t(bits >> 11)) / double(int64_t(1) << 52) - 1;
  static constexpr double kScales[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
  return T(unit * kScales[bits % 8]);
}

template <class T>
T expected(int ranks, int64_t i) {
  T sum = value<T>(0, i);
  for (int r = 1; r < ranks; ++r)
    sum = std::is_same_v<T, int64_t> ? std::max(sum, value<T>(r, i)) : T(sum + value<T>(r, i));
  return sum;
}

template <class T>
std::vector<T> values(int rank, int64_t items) {
  std::vector<T> all(static_cast<size_t>(items));
  for (int64_t i = 0; i < items; ++i) all[size_t(i)] = value<T>(rank, i);
  return all;
}

[[noreturn]] void fail(const Communicator& ranks, const std::string& what) {
  internal_error("rank {} of {}: {}", ranks.rank(), ranks.size(), what);
}

void check_all_reduce(Communicator& ranks) {
  // Nothing, less than a rank each, less than a slot, more than all slots, and odd.
  for (const int64_t items : {0, 1, 3, 1023, 1024, 1025, 100'003, 1'700'003}) {
    const auto compare = [&]<class T>(std::vector<T> data, const char* name, auto&& reduce) {
      reduce(data);
      for (int64_t i = 0; i < items; ++i)
        if (const T e = expected<T>(ranks.size(), i);
            std::memcmp(&data[size_t(i)], &e, sizeof e) != 0)
          fail(ranks, fmt::format("{} of {}: item {} is {}, expected {}", name, items, i,
                                  data[size_t(i)], e));
    };
    compare(values<float>(ranks.rank(), items), "all_reduce of floats",
            [&](std::vector<float>& data) { ranks.all_reduce(data); });
    compare(values<double>(ranks.rank(), items), "all_reduce of doubles",
            [&](std::vector<double>& data) { ranks.all_reduce(data); });
    compare(values<int64_t>(ranks.rank(), items), "all_reduce_max",
            [&](std::vector<int64_t>& data) { ranks.all_reduce_max(data); });
  }
}

/// Even, all with the last rank, none with every second, one item each, nothing at all.
std::vector<std::vector<int64_t>> divisions(int ranks) {
  std::vector<std::vector<int64_t>> all;
  const auto add = [&](const std::function<int64_t(int)>& length, int64_t begin) {
    std::vector<int64_t> pieces{begin};
    for (int r = 0; r < ranks; ++r) pieces.push_back(pieces.back() + length(r));
    all.push_back(pieces);
  };
  add([](int r) { return 1000 + r; }, 0);
  add([ranks](int r) { return r + 1 == ranks ? 1'100'001 : 0; }, 0);
  add([](int r) { return r % 2 ? 0 : 400'001 + 13 * r; }, 5);
  add([](int) { return 1; }, 0);
  add([](int) { return 0; }, 0);
  return all;
}

void check_pieces(Communicator& ranks) {
  const auto me = size_t(ranks.rank());
  for (const std::vector<int64_t>& pieces : divisions(ranks.size())) {
    std::vector<float> data = values<float>(ranks.rank(), pieces.back());
    std::vector<float> mine(size_t(pieces[me + 1] - pieces[me]));
    ranks.reduce_scatter(data, pieces, mine);
    const auto sum = [&](int64_t i) { return expected<float>(ranks.size(), i); };
    for (size_t i = 0; i < mine.size(); ++i)
      if (std::bit_cast<uint32_t>(mine[i]) != std::bit_cast<uint32_t>(sum(pieces[me] + int64_t(i))))
        fail(ranks, fmt::format("reduce_scatter: item {} of its piece is wrong", i));
    // In place, and back to everybody.
    ranks.reduce_scatter(data, pieces, std::span(data).subspan(size_t(pieces[me]), mine.size()));
    ranks.all_gather(data.data(), sizeof(float), pieces);
    for (int64_t i = 0; i < pieces.back(); ++i) {
      const float e = i < pieces.front() ? value<float>(ranks.rank(), i) : sum(i);
      if (std::bit_cast<uint32_t>(data[size_t(i)]) != std::bit_cast<uint32_t>(e))
        fail(ranks, fmt::format("all_gather: item {} of {} is {}, expected {}", i, pieces.back(),
                                data[size_t(i)], e));
    }
    // Items of three bytes fall across every boundary.
    std::vector<unsigned char> bytes(size_t(pieces.back()) * 3, 0xEE);
    for (int64_t b = 3 * pieces[me]; b < 3 * pieces[me + 1]; ++b)
      bytes[size_t(b)] = static_cast<unsigned char>(value<int64_t>(0, b));
    ranks.all_gather(bytes.data(), 3, pieces);
    for (int64_t b = 0; b < 3 * pieces.back(); ++b) {
      const auto e = b < 3 * pieces.front() ? static_cast<unsigned char>(0xEE)
                                            : static_cast<unsigned char>(value<int64_t>(0, b));
      if (bytes[size_t(b)] != e) fail(ranks, fmt::format("all_gather of bytes: byte {}", b));
    }
  }
}

void check_broadcast(Communicator& ranks) {
  for (const size_t bytes : {size_t(0), size_t(1), size_t(3'000'011)})
    for (int root = 0; root < ranks.size(); ++root) {
      std::vector<char> data(bytes, char(ranks.rank() + 1));
      ranks.broadcast(data.data(), bytes, root);
      for (const char c : data)
        if (c != char(root + 1)) fail(ranks, fmt::format("broadcast from {}", root));
    }
}

void check_texts(Communicator& ranks) {
  const auto text = [](int rank) { return std::string(size_t(rank) * 3000, char('a' + rank)); };
  const std::vector<std::string> all = ranks.all_gather(text(ranks.rank()));
  if (int(all.size()) != ranks.size()) fail(ranks, "all_gather of texts: their number");
  for (int r = 0; r < ranks.size(); ++r)
    if (all[size_t(r)] != text(r)) fail(ranks, fmt::format("all_gather of texts: that of {}", r));
}

// Thousands in a row, so that a rank which is ahead would overwrite what another still reads.
void check_turns(Communicator& ranks) {
  for (int64_t turn = 0; turn < 1000; ++turn) {
    int64_t most = turn * ranks.size() + ranks.rank();
    ranks.all_reduce_max({&most, 1});
    if (most != turn * ranks.size() + ranks.size() - 1)
      fail(ranks, fmt::format("all_reduce_max in turn {} gave {}", turn, most));
    if (turn % 7 == 0) ranks.barrier();
  }
}

void check_wrong_pieces(Communicator& ranks) {
  std::vector<float> data(10), mine(3);
  const std::vector<int64_t> backwards(size_t(ranks.size()) + 1, 0);
  try {
    ranks.reduce_scatter(data, backwards, mine);
  } catch (const Error&) {
    return;
  }
  fail(ranks, "reduce_scatter took a piece of another size");
}

void check(Communicator& ranks) {
  check_all_reduce(ranks);
  check_pieces(ranks);
  check_broadcast(ranks);
  check_texts(ranks);
  check_turns(ranks);
  check_wrong_pieces(ranks);
  ranks.barrier();
}

void print(Communicator& ranks) {
  std::vector<float> data = values<float>(ranks.rank(), 1'000'003);
  ranks.all_reduce(data);
  const uint64_t sum =
      fnv1a({reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float)});
  const std::string line =
      fmt::format("rank {} of {}, {} of {} on its node, threads {}, {}, sums {:016x}\n",
                  ranks.rank(), ranks.size(), ranks.local_rank(), ranks.local_size(),
                  default_threads(ranks), ranks.describe(), sum);
  std::fwrite(line.data(), 1, line.size(), stdout);
}

double processor_seconds() {
  struct rusage used {};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

void late(Communicator& ranks) {
  ranks.barrier();
  const double before = processor_seconds();
  if (ranks.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(2));
  ranks.barrier();
  std::vector<float> data(100'000, 1.0F);
  if (ranks.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(2));
  ranks.all_reduce(data);
  const double spent = processor_seconds() - before;
  if (spent > 0.5) fail(ranks, fmt::format("waiting for 4 s took {:.2f} s of a processor", spent));
}

int run(std::string_view mode) {
  const std::unique_ptr<Communicator> ranks = open_communicator();
  if (mode == "check") check(*ranks);
  if (mode == "print") print(*ranks);
  if (mode == "late") late(*ranks);
  if (mode == "astray") {
    if (ranks->rank() == 1) ranks->barrier();
    std::vector<float> data(1000, 1.0F);
    ranks->all_reduce(data);
  }
  if (mode == "abort") {
    if (ranks->rank() == 1) ranks->abort(4);
    ranks->barrier();
  }
  return 0;
}

}  // namespace
}  // namespace qat

int main(int count, char** arguments) {
  try {
    return qat::run(count == 2 ? arguments[1] : "");
  } catch (const qat::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return int(error.code());
  }
}
