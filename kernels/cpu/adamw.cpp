// One AdamW step: the step's constants, then blocks of 256 elements over the threads.
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector/vector_kernels.h"
#include "kernels/dynamic_maps.h"

namespace qat::cpu {

void adamw(const AdamW& args, Stream& stream) {
  const double correction1 = 1.0 - std::pow(double(args.beta1), double(args.step));
  const double correction2 = std::sqrt(1.0 - std::pow(double(args.beta2), double(args.step)));
  AdamWJob whole{};
  whole.p = args.p.data;
  whole.p_type = args.p.dtype;
  whole.g = args.g.data;
  whole.g_type = args.g.dtype;
  whole.m = args.m.data;
  whole.v = args.v.data;
  whole.m_absmax = args.m_absmax ? args.m_absmax.as<float>() : nullptr;
  whole.v_absmax = args.v_absmax ? args.v_absmax.as<float>() : nullptr;
  whole.copy = args.copy ? args.copy.as<BFloat16>() : nullptr;
  whole.beta1 = args.beta1;
  whole.beta2 = args.beta2;
  whole.grad_scale = args.grad_scale;
  whole.step_size = float(double(args.lr) * correction2 / correction1);
  whole.eps = float(double(args.eps) * correction2);
  whole.keep = 1.0f - args.lr * args.weight_decay;
  whole.seed = args.seed;
  whole.step = args.step;
  whole.first_element = args.first_element;
  if (whole.m_absmax != nullptr) {
    const DynamicMaps& maps = dynamic_maps();
    whole.m_map = maps.m.data();
    whole.v_map = maps.v.data();
    whole.m_nearest = maps.m_nearest.entries.data();
    whole.v_nearest = maps.v_nearest.entries.data();
  }
  over_ranges(stream, args.p.count(), 256, 8, [&](int64_t begin, int64_t end) {
    AdamWJob job = whole;
    job.first = begin;
    job.count = end - begin;
    vector_kernels().adamw(job);
  });
}

}  // namespace qat::cpu
