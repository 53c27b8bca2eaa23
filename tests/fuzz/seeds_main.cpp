// fuzz_seeds OUT writes the first inputs of every target: OUT/json, OUT/safetensors, ...
#include <cstdio>
#include <exception>

#include "tests/fuzz/targets.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    qat::fuzz::write_seeds(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz_seeds: %s\n", error.what());
    return 1;
  }
}
