// AdamW with f32 and 8-bit states against doubles, the golden steps, and brute-force encoding.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "kernels/dynamic_maps.h"
#include "kernels/kernels.h"
#include "kernels/quant_math.h"
#include "kernels/random.h"
#include "tests/kernels/tensors.h"

namespace qat {
namespace {

using test::Tensor;

/// The tensors of a safetensors file as raw bytes, and its metadata.
struct Golden {
  std::map<std::string, std::vector<char>> tensors;
  nlohmann::json metadata;

  explicit Golden(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    uint64_t header_bytes = 0;
    file.read(reinterpret_cast<char*>(&header_bytes), 8);
    std::string header(header_bytes, '\0');
    file.read(header.data(), std::streamsize(header_bytes));
    if (!file) throw std::runtime_error("cannot read " + path);
    const nlohmann::json entries = nlohmann::json::parse(header);
    for (const auto& [name, entry] : entries.items()) {
      if (name == "__metadata__") {
        metadata = entry;
        continue;
      }
      const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
      std::vector<char>& bytes = tensors[name];
      bytes.resize(end - begin);
      file.seekg(std::streamoff(8 + header_bytes + begin));
      file.read(bytes.data(), std::streamsize(bytes.size()));
    }
  }
  template <class T>
  std::vector<T> get(const std::string& name) const {
    const std::vector<char>& bytes = tensors.at(name);
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  float number(const std::string& key) const {
    return std::stof(metadata.at(key).get<std::string>());
  }
};

const Golden& golden() {
  static const Golden file("tests/golden/adam8bit.safetensors");
  return file;
}

TEST(DynamicMapTest, EqualsBitsandbytes) {
  const auto expected_m = golden().get<float>("map_signed");
  const auto expected_v = golden().get<float>("map_unsigned");
  for (size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(signed_dynamic_map()[i], expected_m[i]) << i;
    EXPECT_EQ(unsigned_dynamic_map()[i], expected_v[i]) << i;
  }
  EXPECT_EQ(signed_dynamic_map()[127], 0.0f);
}

/// bitsandbytes' rule said in words: the nearest entry, at a midpoint the even index; m never
/// changes sign.
int nearest_by_search(const DynamicMap& map, float x) {
  int best = 0;
  for (int i = 1; i < 256; ++i) {
    const float midpoint = (map[size_t(i - 1)] + map[size_t(i)]) * 0.5f;
    if (i % 2 == 0 ? x >= midpoint : x > midpoint) best = i;
  }
  if (std::signbit(map[size_t(best)]) != std::signbit(x) && map[0] < 0.0f)
    best += x > 0.0f ? 1 : -1;
  return best;
}

TEST(DynamicMapTest, NearestEqualsLinearSearchAroundEveryMidpoint) {
  for (const DynamicMap& map : {signed_dynamic_map(), unsigned_dynamic_map()}) {
    std::vector<float> values = {1.0f, 0.0f, 1e-9f, 1e-30f, 1e-44f};
    for (size_t i = 1; i < 256; ++i) {
      const float midpoint = (map[i - 1] + map[i]) * 0.5f;
      for (float value :
           {midpoint, map[i], std::nextafter(midpoint, 2.0f), std::nextafter(midpoint, -2.0f)})
        values.push_back(value);
    }
    for (float value : values) {
      EXPECT_EQ(nearest_in_map(map, value), nearest_by_search(map, value)) << value;
      if (map[0] < 0.0f && value != 0.0f) {
        EXPECT_EQ(nearest_in_map(map, -value), nearest_by_search(map, -value)) << -value;
      }
    }
  }
}

struct State {
  Tensor p, m, v, m_absmax, v_absmax;
  State(int64_t count, DType p_type, DType state)
      : p({count}, p_type),
        m({count}, state),
        v({count}, state),
        m_absmax({(count + 255) / 256}, DType::f32),
        v_absmax({(count + 255) / 256}, DType::f32) {
    m_absmax.fill(0.0);
    v_absmax.fill(0.0);
    if (state == DType::u8) {
      std::memset(m.view().data, 127, size_t(count));
      std::memset(v.view().data, 0, size_t(count));
    } else {
      m.fill(0.0);
      v.fill(0.0);
    }
  }
  AdamW args(Tensor& g, int64_t step) {
    AdamW a{};
    a.p = p.view();
    a.m = m.view();
    a.v = v.view();
    if (m.dtype() == DType::u8) {
      a.m_absmax = m_absmax.view();
      a.v_absmax = v_absmax.view();
    }
    a.g = g.view();
    a.lr = 1e-2f;
    a.beta1 = 0.9f;
    a.beta2 = 0.95f;
    a.eps = 1e-8f;
    a.weight_decay = 0.1f;
    a.grad_scale = 1.0f;
    a.step = step;
    a.seed = 42;
    return a;
  }
  bool same_bits(const State& other) const {
    return p.same_bits(other.p) && m.same_bits(other.m) && v.same_bits(other.v) &&
           m_absmax.same_bits(other.m_absmax) && v_absmax.same_bits(other.v_absmax);
  }
  bool guards_intact() const {
    return p.guard_intact() && m.guard_intact() && v.guard_intact() && m_absmax.guard_intact() &&
           v_absmax.guard_intact();
  }
};

void run(const AdamW& args, int threads) {
  Stream stream(threads);
  cpu_kernels().adamw.run(args, stream);
}

TEST(AdamW8BitTest, FollowsTheGoldenSteps) {
  const Golden& file = golden();
  const auto start = file.get<float>("start"), gradients = file.get<float>("gradients");
  const int64_t count = int64_t(start.size());
  State state(count, DType::f32, DType::u8);
  Tensor g({count}, DType::f32);
  std::memcpy(state.p.view().data, start.data(), start.size() * sizeof(float));
  for (int step = 1; step <= int(file.number("steps")); ++step) {
    std::memcpy(g.view().data, gradients.data() + (step - 1) * count, size_t(count) * 4);
    AdamW args = state.args(g, step);
    args.lr = file.number("learning_rate");
    args.beta1 = file.number("beta1");
    args.beta2 = file.number("beta2");
    args.eps = file.number("eps");
    args.weight_decay = file.number("weight_decay");
    run(args, 2);
    EXPECT_TRUE(state.guards_intact());
    const std::string prefix = "step" + std::to_string(step) + ".";
    const auto p = file.get<float>(prefix + "p");
    const auto m = file.get<uint8_t>(prefix + "m"), v = file.get<uint8_t>(prefix + "v");
    const auto m_absmax = file.get<float>(prefix + "m_absmax");
    const auto v_absmax = file.get<float>(prefix + "v_absmax");
    int different = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int dm = state.m.view().as<uint8_t>()[i] - m[size_t(i)];
      const int dv = state.v.view().as<uint8_t>()[i] - v[size_t(i)];
      different += (dm != 0) + (dv != 0);
      ASSERT_LE(std::abs(dm), 1) << i;
      ASSERT_LE(std::abs(dv), 1) << i;
      ASSERT_NEAR(state.p[i], p[size_t(i)], 2e-6 * step + (different > 0 ? 1e-3 : 0)) << i;
    }
    EXPECT_LE(different, 10) << "codes at a midpoint, of " << 2 * count;
    for (size_t b = 0; b < m_absmax.size(); ++b) {
      EXPECT_NEAR(state.m_absmax[int64_t(b)], m_absmax[b], 1e-6 * m_absmax[b]);
      EXPECT_NEAR(state.v_absmax[int64_t(b)], v_absmax[b], 1e-6 * v_absmax[b]);
    }
  }
}

// The stored codes are those of the search: checked by a step that only stores the gradient.
TEST(AdamW8BitTest, EncodesEveryFloatAsTheSearchDoes) {
  std::mt19937 generator(1);
  const DynamicMap m_map = signed_dynamic_map(), v_map = unsigned_dynamic_map();
  constexpr int64_t kCount = 256 * 400 + 100;
  Tensor g({kCount}, DType::f32);
  std::uniform_real_distribution<float> exponent(-30.0f, 0.0f);
  std::uniform_int_distribution<int> entry(1, 255), wiggle(-2, 2);
  for (int64_t i = 0; i < kCount; ++i) {
    float value = std::exp2(exponent(generator)) * (i % 2 == 0 ? 1.0f : -1.0f);
    if (i % 3 == 0) {  // around a midpoint of the signed map
      const size_t k = size_t(entry(generator));
      value = (m_map[k - 1] + m_map[k]) * 0.5f;
      for (int w = wiggle(generator); w != 0; w += w > 0 ? -1 : 1)
        value = std::nextafter(value, w > 0 ? 2.0f : -2.0f);
    }
    if (i % 3 == 1) {  // its square around a midpoint of the unsigned one
      const size_t k = size_t(entry(generator));
      value = std::sqrt((v_map[k - 1] + v_map[k]) * 0.5f);
    }
    g.set(i, i % 256 == 0 ? 1.0 : value);
  }
  State state(kCount, DType::f32, DType::u8);
  state.p.fill(0.0);
  AdamW args = state.args(g, 1);
  args.beta1 = args.beta2 = 0.0f;  // m = g, v = g * g
  run(args, 2);
  for (int64_t i = 0; i < kCount; ++i) {
    const float value = g.view().as<float>()[i];
    ASSERT_EQ(state.m.view().as<uint8_t>()[i], nearest_by_search(m_map, value)) << value;
    ASSERT_EQ(state.v.view().as<uint8_t>()[i], nearest_by_search(v_map, value * value)) << value;
  }
}

TEST(AdamW8BitTest, ZeroAndTinyGradientsStayFinite) {
  State state(600, DType::f32, DType::u8);
  state.p.fill(1.0);
  Tensor g({600}, DType::f32);
  g.fill(0.0);
  for (int64_t i = 256; i < 512; ++i) g.set(i, 1e-30);  // v is below any normal float
  for (int step = 1; step <= 3; ++step) run(state.args(g, step), 1);
  for (int64_t i = 0; i < 600; ++i) ASSERT_TRUE(std::isfinite(state.p[i])) << i;
  EXPECT_EQ(state.m.view().as<uint8_t>()[0], 127);
  EXPECT_EQ(state.v.view().as<uint8_t>()[0], 0);
}

class AdamWTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(States, AdamWTest, testing::Values(DType::f32, DType::u8),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(AdamW32BitTest, MatchesDoubles) {
  constexpr int64_t kCount = 1000;
  for (DType g_type : {DType::f32, DType::bf16}) {
    State state(kCount, DType::f32, DType::f32);
    state.p.fill_normal(1, 1.0);
    Tensor g({kCount}, g_type), copy({kCount}, DType::bf16);
    std::vector<double> p, m(kCount, 0.0), v(kCount, 0.0);
    for (int64_t i = 0; i < kCount; ++i) p.push_back(state.p[i]);
    for (int step = 1; step <= 5; ++step) {
      g.fill_normal(unsigned(step), 0.3);
      AdamW args = state.args(g, step);
      args.grad_scale = 0.5f;
      args.copy = copy.view();
      run(args, 2);
      const double c1 = 1 - std::pow(0.9, step), c2 = std::sqrt(1 - std::pow(0.95, step));
      for (int64_t i = 0; i < kCount; ++i) {
        const size_t k = size_t(i);
        m[k] = 0.9 * m[k] + 0.1 * 0.5 * g[i];
        v[k] = 0.95 * v[k] + 0.05 * 0.25 * g[i] * g[i];
        p[k] -= 1e-2 * c2 / c1 * m[k] / (std::sqrt(v[k]) + 1e-8 * c2);
        p[k] *= 1 - 1e-2 * 0.1;
        ASSERT_NEAR(state.p[i], p[k], 2e-6 * step);
        ASSERT_EQ(copy[i], to_float(to_bfloat16(float(state.p[i]))));
      }
      EXPECT_TRUE(state.guards_intact() && copy.guard_intact());
    }
  }
}

TEST_P(AdamWTest, SameBitsForAnyThreadCountAndResume) {
  for (DType p_type : {DType::f32, DType::bf16}) {
    constexpr int64_t kCount = 70001;
    Tensor g({kCount}, DType::f32);
    std::vector<State> results;
    for (int threads : {1, 2, 3}) {
      State state(kCount, p_type, GetParam());
      state.p.fill_normal(2, 1.0);
      for (int step = 1; step <= 3; ++step) {
        g.fill_normal(unsigned(step), 0.1);
        run(state.args(g, step), threads);
      }
      EXPECT_TRUE(state.guards_intact());
      results.push_back(state);
    }
    EXPECT_TRUE(results[0].same_bits(results[1]) && results[0].same_bits(results[2]));
  }
}

TEST_P(AdamWTest, NonFiniteGradientLeavesTheParameter) {
  State state(300, DType::f32, GetParam());
  state.p.fill(2.0);
  Tensor g({300}, DType::f32);
  g.fill(0.5);
  g.set(5, std::nan(""));
  g.set(299, std::numeric_limits<double>::infinity());
  run(state.args(g, 1), 1);
  EXPECT_EQ(state.p[5], 2.0);
  EXPECT_EQ(state.p[299], 2.0);
  EXPECT_LT(state.p[4], 2.0);
  EXPECT_TRUE(std::isfinite(state.m_absmax[0]) && std::isfinite(state.v_absmax[1]));
  if (GetParam() == DType::u8) {
    EXPECT_EQ(state.m.view().as<uint8_t>()[5], 127);
    EXPECT_EQ(state.v.view().as<uint8_t>()[5], 0);
  } else {
    EXPECT_EQ(state.m[5], 0.0);
    EXPECT_EQ(state.v[299], 0.0);
  }
}

/// The sixteen random bits of an element, by the layout that adamw documents.
uint32_t random_half(uint64_t seed, int64_t step, int64_t element) {
  const uint64_t counter = uint64_t(element / 128 * 16 + element % 16);
  const uint32_t word = philox(seed, uint64_t(step), counter)[size_t(element / 16 % 4)];
  return element % 128 < 64 ? word & 0xFFFFu : word >> 16;
}

TEST_P(AdamWTest, StochasticRoundingIsKeyedByElementAndUnbiased) {
  constexpr int64_t kCount = 20000;
  State exact(kCount, DType::f32, GetParam()), rounded(kCount, DType::bf16, GetParam());
  rounded.p.fill_normal(3, 1.0);
  for (int64_t i = 0; i < kCount; ++i) exact.p.set(i, rounded.p[i]);
  Tensor g({kCount}, DType::f32), copy({kCount}, DType::bf16);
  g.fill_normal(4, 1.0);
  run(exact.args(g, 7), 1);
  AdamW args = rounded.args(g, 7);
  args.copy = copy.view();
  run(args, 2);
  double bias = 0, size = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    const uint32_t bits = bits_of(exact.p.view().as<float>()[i]);
    ASSERT_EQ(rounded.p.view().as<uint16_t>()[i], (bits + random_half(42, 7, i)) >> 16) << i;
    ASSERT_EQ(rounded.p[i], copy[i]);
    bias += rounded.p[i] - exact.p[i];
    size += std::abs(rounded.p[i] - exact.p[i]);
  }
  EXPECT_GT(size, 0.0);
  EXPECT_LT(std::abs(bias), 0.03 * size);
}

}  // namespace
}  // namespace qat
