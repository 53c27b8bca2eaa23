// Legend: O out channels, K inputs; H = 2/n sum x xT, damped; U upper with UT U = H^-1. All in
// double; weights become f32 where a grid or a code is chosen.
#include "engine/ptq/gptq.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/ptq/parallel_rows.h"

namespace qat {

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// H with a 1 on the diagonal of columns that never had an input.
Matrix hessian_of(const Gram& inputs) {
  const int64_t K = inputs.columns();
  Matrix h = Eigen::Map<const Matrix>(inputs.sums().data(), K, K) * (2.0 / double(inputs.tokens()));
  for (int64_t k = 0; k < K; ++k)
    if (h(k, k) == 0.0) h(k, k) = 1.0;
  return h;
}

// Columns in the order they are rounded in; equal ones as they lie.
std::vector<int64_t> rounding_order(const Matrix& hessian, ActOrder order) {
  std::vector<int64_t> columns(size_t(hessian.rows()));
  std::iota(columns.begin(), columns.end(), int64_t{0});
  if (order != ActOrder::none)
    std::stable_sort(columns.begin(), columns.end(),
                     [&](int64_t a, int64_t b) { return hessian(a, a) > hessian(b, b); });
  return columns;
}

// U of the permuted, damped Hessian; none if that is not positive definite. With P the reversal of
// the order and P H P = L LT, U is P L^-1 P: no inverse is made, and none is factored.
std::optional<Matrix> inverse_factor(const Matrix& hessian, const std::vector<int64_t>& order,
                                     double damping) {
  const int64_t K = hessian.rows();
  Matrix reversed(K, K);
  for (int64_t r = 0; r < K; ++r)
    for (int64_t c = 0; c < K; ++c)
      reversed(r, c) = hessian(order[size_t(K - 1 - r)], order[size_t(K - 1 - c)]);
  reversed.diagonal().array() += damping;
  const Eigen::LLT<Matrix> factor(reversed);
  if (factor.info() != Eigen::Success) return std::nullopt;
  Matrix inverse = Matrix::Identity(K, K);
  factor.matrixL().solveInPlace(inverse);
  if (!inverse.allFinite()) return std::nullopt;
  return Matrix(inverse.reverse());
}

Matrix damped_factor(const Matrix& hessian, const std::vector<int64_t>& order, double fraction,
                     const std::string& path) {
  constexpr double kLeast = 1e-4, kMore = 10.0;
  const double mean = hessian.diagonal().mean();
  for (double tried = fraction;; tried = std::max(tried * kMore, kLeast)) {
    if (std::optional<Matrix> factor = inverse_factor(hessian, order, tried * mean)) {
      if (tried != fraction)
        log::warn("{}: its Hessian is not positive definite with dampening_frac {}; {} was taken",
                  path, fraction, tried);
      return *factor;
    }
    if (tried > 1.0)
      throw Error(Exit::diverged,
                  fmt::format("gptq: the Hessian of {} cannot be factored; give more calibration "
                              "text (quantize.calibrate.samples)",
                              path));
  }
}

// The weights while they are rounded, columns in rounding order.
class Rounding {
 public:
  Rounding(const float* w_OK, int64_t rows, const Matrix& factor, const std::vector<int64_t>& order,
           const QuantSpec& spec, const KernelTable& kernels, Stream& stream)
      : result(spec, rows, factor.rows()),
        O_(rows),
        K_(factor.rows()),
        factor_(factor),
        order_(order),
        kernels_(kernels),
        stream_(stream),
        w_(size_t(rows * factor.rows())) {
    result.unrounded.resize(w_.size());
    for (int64_t o = 0; o < O_; ++o)
      for (int64_t k = 0; k < K_; ++k)
        w_[size_t(o * K_ + k)] = double(w_OK[o * K_ + order[size_t(k)]]);
  }

  /// Takes these grids instead of choosing them group by group.
  void fix_grids(const SolvedMatrix& grids) {
    result.scales = grids.scales;
    result.seconds = grids.seconds;
    fixed_ = true;
  }

  void run(int64_t block_size) {
    const int64_t group = result.spec.per == Per::group ? result.spec.group : K_;
    for (int64_t begin = 0; begin < K_;) {
      int64_t end = std::min(K_, begin + block_size);
      // A group that begins within the block must end there: its grid wants it up to date.
      const int64_t last_group = end / group * group;
      if (!fixed_ && end < K_ && end % group != 0 && last_group > begin) end = last_group;
      errors_.assign(size_t(O_ * (end - begin)), 0.0);
      for (int64_t at = begin; at < end;) {
        const int64_t next = fixed_ ? end : std::min(end, (at / group + 1) * group);
        if (!fixed_ && at % group == 0) choose_grids(at, std::min(group, K_ - at));
        round_columns(at, next, begin, end);
        at = next;
      }
      spread_errors(begin, end);
      begin = end;
    }
  }

  SolvedMatrix result;

 private:
  // The grids of `count` columns from `begin` on, a grid a row (or one for the whole tensor).
  void choose_grids(int64_t begin, int64_t count) {
    QuantSpec spec = result.spec;
    if (spec.per == Per::group) spec.per = Per::row;
    spec.group = 0;
    std::vector<float> part(size_t(O_ * count));
    for (int64_t o = 0; o < O_; ++o)
      for (int64_t k = 0; k < count; ++k)
        part[size_t(o * count + k)] = float(w_[size_t(o * K_ + begin + k)]);
    const SolvedMatrix rounded = round_to_nearest(part.data(), O_, count, spec, kernels_, stream_);
    for (size_t i = 0; i < rounded.scales.size(); ++i) {
      const size_t at = result.grid_index(int64_t(i), order_[size_t(begin)]);
      result.scales[at] = rounded.scales[i];
      if (!rounded.seconds.empty()) result.seconds[at] = rounded.seconds[i];
    }
  }

  // Rows in tiles, so that a row of U is read for several of W.
  template <class Body>
  void over_tiles(Body body) const {
    constexpr int64_t kTile = 8;
    parallel_rows(stream_, (O_ + kTile - 1) / kTile,
                  [&](int64_t tile) { body(tile * kTile, std::min(O_, (tile + 1) * kTile)); });
  }

  // w[k..end) -= error * U[i, k..end).
  void make_up(int64_t row, double error, int64_t i, int64_t k, int64_t end) {
    double* w = w_.data() + row * K_;
    const double* u = factor_.data() + i * K_;
    for (; k < end; ++k) w[k] -= error * u[k];
  }

  void round_columns(int64_t from, int64_t to, int64_t begin, int64_t end) {
    over_tiles([&](int64_t first, int64_t last) {
      for (int64_t i = from; i < to; ++i)
        for (int64_t row = first; row < last; ++row) {
          const int64_t column = order_[size_t(i)];
          const Grid grid = result.grid(result.grid_index(row, column));
          const double w = w_[size_t(row * K_ + i)];
          const int8_t code = nearest_code(float(w), result.spec, grid);
          result.codes[size_t(row * K_ + column)] = code;
          result.unrounded[size_t(row * K_ + column)] =
              within_cell(float(w), code, result.spec, grid);
          const double error = (w - double(value_of(float(code), grid))) / factor_(i, i);
          errors_[size_t(row * (end - begin) + i - begin)] = error;
          make_up(row, error, i, i + 1, end);
        }
    });
  }

  void spread_errors(int64_t begin, int64_t end) {
    over_tiles([&](int64_t first, int64_t last) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t row = first; row < last; ++row)
          make_up(row, errors_[size_t(row * (end - begin) + i - begin)], i, end, K_);
    });
  }

  int64_t O_, K_;
  const Matrix& factor_;
  const std::vector<int64_t>& order_;
  const KernelTable& kernels_;
  Stream& stream_;
  std::vector<double> w_, errors_;
  bool fixed_ = false;
};

}  // namespace

SolvedMatrix gptq(const float* w_OK, int64_t rows, const Gram& inputs, const QuantSpec& spec,
                  const GptqOptions& options, const std::string& path, const KernelTable& kernels,
                  Stream& stream) {
  const int64_t K = inputs.columns();
  inputs.check(path);
  const Matrix hessian = hessian_of(inputs);
  const std::vector<int64_t> order = rounding_order(hessian, options.order);
  const Matrix factor = damped_factor(hessian, order, options.dampening_frac, path);

  std::vector<float> w(w_OK, w_OK + rows * K);
  for (int64_t k = 0; k < K; ++k)
    if (inputs.sums()[size_t(k * K + k)] == 0.0)
      for (int64_t o = 0; o < rows; ++o) w[size_t(o * K + k)] = 0.0f;
  Rounding rounding(w.data(), rows, factor, order, spec, kernels, stream);
  if (options.order == ActOrder::groups && spec.per == Per::group) {
    rounding.result.group_of.resize(size_t(K));
    for (int64_t i = 0; i < K; ++i)
      rounding.result.group_of[size_t(order[size_t(i)])] = int32_t(i / spec.group);
  }
  if (options.order == ActOrder::fixed_groups || spec.per == Per::tensor)
    rounding.fix_grids(round_to_nearest(w.data(), rows, K, spec, kernels, stream));
  rounding.run(options.block_size);
  SolvedMatrix& result = rounding.result;
  OutputSquares squares({inputs.sums().begin(), inputs.sums().end()}, K, kernels, stream);
  result.relative_error = squares.relative_error({w_OK, w_OK + rows * K}, result.values());
  return std::move(result);
}

}  // namespace qat
