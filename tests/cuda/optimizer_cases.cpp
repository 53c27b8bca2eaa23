// Cases of AdamW. Every order of operations is the CPU's, so every bit is.
#include <cmath>

#include "tests/cuda/cases.h"

namespace qat::test {
namespace {

Case adamw_case(DType p_type, DType g_type, DType state, int64_t count, bool copies) {
  return {std::string("adamw_") + name_of(p_type) + "_" + name_of(g_type) + "_" + name_of(state) +
              "_" + std::to_string(count),
          [=](const KernelTable& kernels, Stream& stream, Memory& m) {
            const bool coded = state == DType::u8;
            const View p = m.normal({count}, p_type, 1), copy = m.make({count}, DType::bf16);
            const View moment1 = m.zeros({count}, state), moment2 = m.zeros({count}, state);
            const int64_t blocks = (count + 255) / 256;
            const View m_absmax = m.zeros({blocks}, DType::f32);
            const View v_absmax = m.zeros({blocks}, DType::f32);
            for (int step = 1; step <= 3; ++step) {
              const View g = m.normal({count}, g_type, unsigned(step) + 1, 0.1);
              set(g, count / 2, NAN);
              set(g, 1, 0.0);
              AdamW args{};
              args.p = p;
              args.g = g;
              args.m = moment1;
              args.v = moment2;
              if (coded) {
                args.m_absmax = m_absmax;
                args.v_absmax = v_absmax;
              }
              if (copies) args.copy = copy;
              args.lr = 1e-2f;
              args.beta1 = 0.9f;
              args.beta2 = 0.999f;
              args.eps = 1e-8f;
              args.weight_decay = 0.01f;
              args.grad_scale = 0.7f;
              args.step = step;
              args.seed = 9;
              kernels.adamw.run(args, stream);
            }
            std::vector<Result> results = {{"p", p}, {"m", moment1}, {"v", moment2}};
            if (coded) results.push_back({"m absmax", m_absmax});
            if (coded) results.push_back({"v absmax", v_absmax});
            if (copies) results.push_back({"copy", copy});
            return results;
          }};
}

}  // namespace

std::vector<Case> optimizer_cases() {
  std::vector<Case> cases;
  for (const DType p : {DType::f32, DType::bf16})
    for (const DType g : {DType::f32, DType::bf16})
      for (const DType state : {DType::f32, DType::u8}) {
        cases.push_back(adamw_case(p, g, state, 5003, p == g));
        if (p == g) cases.push_back(adamw_case(p, g, state, 512, false));
      }
  return cases;
}

}  // namespace qat::test
