// Recipes made to hurt (fault E8): refused within 5 s and 256 MiB, however they are damaged.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "engine/core/error.h"
#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {
namespace {

/// Seconds of a processor and peak memory of one parse, measured in a child of its own.
struct Cost {
  double seconds = 0;
  long kilobytes = 0;
  int status = 0;
};

Cost cost_of(const std::string& text) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      parse_recipe(text, "r.yaml");
      _exit(0);
    } catch (const Error& error) {
      _exit(int(error.code()));
    }
  }
  Cost cost;
  rusage usage{};
  wait4(child, &cost.status, 0, &usage);
  cost.kilobytes = usage.ru_maxrss;
  for (const timeval& time : {usage.ru_utime, usage.ru_stime})
    cost.seconds += double(time.tv_sec) + 1e-6 * double(time.tv_usec);
  return cost;
}

std::string repeated(const std::string& piece, size_t bytes) {
  std::string out;
  while (out.size() + piece.size() < bytes) out += piece;
  return out;
}

TEST(fault_E8, HostileTextIsRefusedQuicklyInLittleMemory) {
  constexpr size_t kMost = 256 << 10;
  std::string laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c <= 'z'; ++c) {
    laughs += fmt::format("{0}: &{0} [", c);
    for (int i = 0; i < 9; ++i) laughs += fmt::format("*{}, ", char(c - 1));
    laughs += "x]\n";
  }
  std::string deep, keys;
  for (size_t i = 0; deep.size() + i + 3 < kMost; ++i) deep += std::string(i, ' ') + "a:\n";
  for (int i = 0; keys.size() + 20 < kMost; ++i) keys += fmt::format("k{}: 1\n", i);
  const std::vector<std::string> texts = {
      laughs,
      "a: &a [*a]\n",
      deep,
      keys,
      repeated("[", kMost),
      repeated("{", kMost),
      repeated("[{", kMost),
      repeated("{a: ", kMost),
      repeated("- ", kMost),
      repeated("? ", kMost),
      repeated(": ", kMost),
      fmt::format("[{}", repeated("a: b, ", kMost - 2)),
      fmt::format("data: {{train: [{}]}}\n", repeated("a,", kMost - 30)),
      repeated("&a ", kMost),
      repeated("---\n", kMost),
      fmt::format("out: |\n{}", repeated(" a\n", kMost - 20)),
      fmt::format("out: \"{}", repeated("\\n", kMost - 20)),
      repeated("a", 64 << 20),
  };
  for (const auto& text : texts) {
    const Cost cost = cost_of(text);
    EXPECT_TRUE(WIFEXITED(cost.status) && WEXITSTATUS(cost.status) == 2) << text.substr(0, 40);
    EXPECT_LT(cost.seconds, 5.0) << text.substr(0, 40);
    EXPECT_LT(cost.kilobytes, (256 + 64 + 64) * 1024) << text.substr(0, 40);
  }
}

/// A good recipe cut at every byte, and with every byte replaced: refused or read, nothing else.
TEST(fault_E8, DamagedTextNeverDoesMore) {
  const std::string good =
      std::string("model: m\nout: o\ndata: {train: [t.txt]}\ntrain: {steps: 10}\n") +
      "quantize: {preset: w4a8, weights: {bits: 4}, layers: [0-3, 7]}\n"
      "distill: {teacher: self, kl: 1e-1}\nexport: [hf, \"hf-master\"]\n";
  const auto survives = [](const std::string& text) {
    try {
      parse_recipe(text, "r.yaml");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::refused) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  };
  for (size_t cut = 0; cut < good.size(); ++cut) survives(good.substr(0, cut));
  for (size_t at = 0; at < good.size(); ++at) {
    for (const char byte : {'\0', '\t', '\n', '"', '\'', '&', '*', '[', '}', ':', '-', '#', '%',
                            '!', '\x80', '\xFF', '0'}) {
      std::string damaged = good;
      damaged[at] = byte;
      survives(damaged);
    }
  }
}

}  // namespace
}  // namespace qat::recipe
