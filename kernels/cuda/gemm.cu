// Products by cuBLASLt, whose plan for a shape is asked for once and kept. Row-major operands are
// the transposes of what cuBLASLt calls matrices, so c = a . b is asked for as cᵀ = bᵀ . aᵀ, and
// a . bᵀ is the TN form that integers want. Integer shapes that it does not take (not multiples of
// 4) go through a plain kernel of our own, with the same exact sums.
#include <map>
#include <tuple>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/lanes.h"

#if defined(__CUDACC__)
#include <cublasLt.h>
#else
#include "kernels/cpu/gemm.h"
#endif

namespace qat::cuda {
namespace {

constexpr int kTile = 16;

/// c_MN = a_MK . b_NKᵀ on i8, a tile of 16 x 16 a block.
__global__ void __launch_bounds__(kBlockThreads)
    multiply_int8(const int8_t* a, const int8_t* b, int32_t* c, int64_t m, int64_t n, int64_t k,
                  int64_t lda, int64_t ldb, int64_t ldc) {
  __shared__ int8_t left[kTile][kTile + 4], right[kTile][kTile + 4];
  const int i = int(threadIdx.x) / kTile, j = int(threadIdx.x) % kTile;
  const int64_t row = int64_t(blockIdx.y) * kTile + i, first = int64_t(blockIdx.x) * kTile;
  int32_t sum = 0;
  for (int64_t k0 = 0; k0 < k; k0 += kTile) {
    left[i][j] = row < m && k0 + j < k ? a[row * lda + k0 + j] : int8_t(0);
    right[i][j] = first + i < n && k0 + j < k ? b[(first + i) * ldb + k0 + j] : int8_t(0);
    __syncthreads();
    for (int step = 0; step < kTile; ++step)
      sum += int32_t(left[i][step]) * int32_t(right[j][step]);
    __syncthreads();
  }
  if (row < m && first + j < n) c[row * ldc + first + j] = sum;
}

void plain_int8(const Gemm& g, const void* a, const void* b, void* c, Stream& stream) {
  launch(multiply_int8, Blocks{divided_up(g.n, kTile), divided_up(g.m, kTile)}, kBlockThreads, 0,
         stream, static_cast<const int8_t*>(a), static_cast<const int8_t*>(b),
         static_cast<int32_t*>(c), g.m, g.n, g.k, g.lda, g.ldb, g.ldc);
}

#if defined(__CUDACC__)

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuBLASLt: ") + what + ": " +
                             cublasLtGetStatusString(status));
}

cudaDataType_t data_type(DType type) {
  switch (type) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::i8:
      return CUDA_R_8I;
    case DType::i32:
      return CUDA_R_32I;
    default:
      return CUDA_R_32F;
  }
}

/// Largest power of two up to 256 that divides an address.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256u;
  return uint32_t(address & (~address + 1));
}

struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;
};

using Key = std::tuple<DType, DType, MatmulForm, int64_t, int64_t, int64_t, int64_t, int64_t,
                       int64_t, uint32_t, uint32_t, uint32_t>;

cublasLtMatrixLayout_t layout_of(DType type, int64_t rows, int64_t cols, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(
      cublasLtMatrixLayoutCreate(&layout, data_type(type), uint64_t(rows), uint64_t(cols), stride),
      "cannot describe a matrix");
  return layout;
}

#endif

}  // namespace

#if defined(__CUDACC__)

struct Gemms {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
};

Gemms* make_gemms() {
  auto* gemms = new Gemms;
  check(cublasLtCreate(&gemms->handle), "cannot start");
  if (cudaMalloc(&gemms->workspace, kGemmWorkspaceBytes) != cudaSuccess)
    throw std::runtime_error("cuBLASLt: no device memory for its workspace");
  return gemms;
}

void destroy_gemms(Gemms* gemms) {
  for (auto& [key, plan] : gemms->plans) {
    cublasLtMatmulDescDestroy(plan.product);
    for (cublasLtMatrixLayout_t layout : {plan.left, plan.right, plan.out})
      cublasLtMatrixLayoutDestroy(layout);
  }
  cublasLtDestroy(gemms->handle);
  cudaFree(gemms->workspace);
  delete gemms;
}

namespace {

Plan make_plan(const Gemm& g, const Gemms& gemms, uint32_t align_left, uint32_t align_right,
               uint32_t align_out) {
  Plan plan;
  const bool integers = g.in == DType::i8;
  check(cublasLtMatmulDescCreate(&plan.product, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                 integers ? CUDA_R_32I : CUDA_R_32F),
        "cannot describe a product");
  // Its left operand is our right one.
  const cublasOperation_t left = g.form == MatmulForm::nt ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t right = g.form == MatmulForm::tn ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(
      cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &left, sizeof left),
      "cannot transpose");
  check(cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, &right,
                                       sizeof right),
        "cannot transpose");
  plan.left = g.form == MatmulForm::nt ? layout_of(g.in, g.k, g.n, g.ldb)
                                       : layout_of(g.in, g.n, g.k, g.ldb);
  plan.right = g.form == MatmulForm::tn ? layout_of(g.in, g.m, g.k, g.lda)
                                        : layout_of(g.in, g.k, g.m, g.lda);
  plan.out = layout_of(g.out, g.n, g.m, g.ldc);
  cublasLtMatmulPreference_t wishes = nullptr;
  check(cublasLtMatmulPreferenceCreate(&wishes), "no preferences");
  const auto wish = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
    check(cublasLtMatmulPreferenceSetAttribute(wishes, name, &value, sizeof value),
          "cannot state a preference");
  };
  wish(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kGemmWorkspaceBytes);
  wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_left);
  wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_right);
  wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_out);
  wish(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_out);
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(gemms.handle, plan.product, plan.left, plan.right, plan.out,
                                     plan.out, wishes, 1, &best, &count);
  cublasLtMatmulPreferenceDestroy(wishes);
  plan.found = status == CUBLAS_STATUS_SUCCESS && count > 0;
  plan.algorithm = best.algo;
  return plan;
}

}  // namespace

void gemm(const Gemm& g, const void* a, const void* b, void* c, Stream& stream) {
  if (g.m == 0 || g.n == 0) return;
  const bool integers = g.in == DType::i8;
  if (g.k == 0) throw std::logic_error("gemm: a product over nothing");
  const bool fours = g.n % 4 == 0 && g.k % 4 == 0 && g.lda % 4 == 0 && g.ldb % 4 == 0;
  if (integers && !fours) return plain_int8(g, a, b, c, stream);
  Gemms& gemms = *context_of(stream).gemms;
  const uint32_t align_a = alignment_of(a), align_b = alignment_of(b), align_c = alignment_of(c);
  const Key key{g.in, g.out, g.form, g.m, g.n, g.k, g.lda, g.ldb, g.ldc, align_a, align_b, align_c};
  auto found = gemms.plans.find(key);
  if (found == gemms.plans.end())
    found = gemms.plans.emplace(key, make_plan(g, gemms, align_b, align_a, align_c)).first;
  const Plan& plan = found->second;
  if (!plan.found) {
    if (integers) return plain_int8(g, a, b, c, stream);
    throw std::runtime_error("cuBLASLt has no product of " + std::string(name_of(g.in)) + " " +
                             std::to_string(g.m) + " x " + std::to_string(g.k) + " x " +
                             std::to_string(g.n));
  }
  const float one = 1.0f, beta = g.accumulate ? 1.0f : 0.0f;
  const int32_t one_integer = 1, zero_integer = 0;
  check(cublasLtMatmul(gemms.handle, plan.product,
                       integers ? static_cast<const void*>(&one_integer) : &one, b, plan.left, a,
                       plan.right, integers ? static_cast<const void*>(&zero_integer) : &beta, c,
                       plan.out, c, plan.out, &plan.algorithm, gemms.workspace, kGemmWorkspaceBytes,
                       static_cast<cudaStream_t>(context_of(stream).queue)),
        "a product failed");
}

#else

// The integer kernel is ours; for the others the CPU's products stand in.
void gemm(const Gemm& g, const void* a, const void* b, void* c, Stream& stream) {
  if (g.m == 0 || g.n == 0) return;
  if (g.in == DType::i8) return plain_int8(g, a, b, c, stream);
  cpu::gemm({g.in, g.out, g.form, g.m, g.n, g.k, g.lda, g.ldb, g.ldc, g.accumulate}, a, b, c,
            stream.threads());
}

#endif

}  // namespace qat::cuda
