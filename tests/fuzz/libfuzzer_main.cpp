// The entry that libFuzzer calls, for the target of this program.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  qat::fuzz::QAT_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
