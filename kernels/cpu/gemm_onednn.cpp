// oneDNN 2.6 matmul with plain layouts. A first call of a shape costs 0.2-0.5 ms, hence the cache;
// per-row scales inside oneDNN fall to its reference loops, hence none are used here.
#include "kernels/cpu/gemm_onednn.h"

#include <omp.h>

#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <string>
#include <tuple>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/workspace.h"

namespace qat::cpu {
namespace {

using dnnl::memory;

memory::data_type type_of(DType t) {
  switch (t) {
    case DType::f32:
      return memory::data_type::f32;
    case DType::bf16:
      return memory::data_type::bf16;
    case DType::i8:
      return memory::data_type::s8;
    case DType::i32:
      return memory::data_type::s32;
    default:
      throw std::logic_error(std::string("gemm: no product of ") + name_of(t));
  }
}

/// oneDNN takes the number of threads from OpenMP, at creation and at execution.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

struct Product {
  memory::desc a, b, c;
  memory::desc scratch;
  dnnl::matmul run;  ///< empty if oneDNN has no real code for the shape
};

const dnnl::engine& cpu_engine() {
  isa();  // oneDNN must hear of a lowered instruction set before its first use
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

Product make_product(const Gemm& g) {
  Product product;
  const auto in = type_of(g.in);
  const bool a_transposed = g.form == MatmulForm::tn, b_transposed = g.form == MatmulForm::nt;
  product.a =
      memory::desc({g.m, g.k}, in, a_transposed ? memory::dims{1, g.lda} : memory::dims{g.lda, 1});
  product.b =
      memory::desc({g.k, g.n}, in, b_transposed ? memory::dims{1, g.ldb} : memory::dims{g.ldb, 1});
  product.c = memory::desc({g.m, g.n}, type_of(g.out), memory::dims{g.ldc, 1});
  dnnl::primitive_attr attributes;
  // The library's own scratch belongs to the thread that made the primitive; ours to the one
  // running.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (g.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  try {
    dnnl::matmul::primitive_desc description({product.a, product.b, product.c}, attributes,
                                             cpu_engine());
    if (std::string(description.impl_info_str()).starts_with("ref")) return product;
    product.scratch = description.scratchpad_desc();
    product.run = dnnl::matmul(description);
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) throw;
  }
  return product;
}

using Key = std::tuple<DType, DType, MatmulForm, bool, int64_t, int64_t, int64_t, int64_t, int64_t,
                       int64_t, int>;

const Product& cached_product(const Gemm& g, int threads) {
  static std::mutex mutex;
  static std::map<Key, Product> products;  // nodes never move, so references stay good
  const Key key{g.in, g.out, g.form, g.accumulate, g.m, g.n, g.k, g.lda, g.ldb, g.ldc, threads};
  const std::lock_guard lock(mutex);
  auto found = products.find(key);
  if (found == products.end()) found = products.emplace(key, make_product(g)).first;
  return found->second;
}

/// Scratch of the calling thread, grown at the first use of a shape that needs more.
void* thread_scratch(size_t bytes) {
  static thread_local Workspace workspace;
  return workspace.get(bytes);
}

}  // namespace

bool gemm_onednn(const Gemm& g, const void* a, const void* b, void* c, int threads) {
  const ThreadCount scope(omp_in_parallel() ? 1 : threads);
  const Product& product = cached_product(g, omp_get_max_threads());
  if (!product.run) return false;
  dnnl::stream stream(cpu_engine());
  // oneDNN takes void*, but reads a and b only.
  product.run.execute(
      stream, {{DNNL_ARG_SRC, {product.a, cpu_engine(), const_cast<void*>(a)}},
               {DNNL_ARG_WEIGHTS, {product.b, cpu_engine(), const_cast<void*>(b)}},
               {DNNL_ARG_DST, {product.c, cpu_engine(), c}},
               {DNNL_ARG_SCRATCHPAD,
                {product.scratch, cpu_engine(), thread_scratch(product.scratch.get_size())}}});
  stream.wait();
  return true;
}

}  // namespace qat::cpu
