#include "recipes/run/recipe/recipe.h"

#include <charconv>
#include <string_view>

namespace qat::recipe {
namespace {

Range range_of(bool symmetric, SymmetricRange range) {
  if (!symmetric) return Range::asymmetric;
  switch (range) {
    case SymmetricRange::strict:
      break;
    case SymmetricRange::full:
      return Range::full;
    case SymmetricRange::stretched:
      return Range::stretched;
  }
  return Range::strict;
}

}  // namespace

std::optional<uint64_t> bytes_of_size(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  const std::string_view unit(rest, size_t(end - rest));
  const double factor = unit == "GB" ? 1e9 : unit == "MB" ? 1e6 : unit == "KB" ? 1e3 : 0.0;
  const double bytes = value * factor;
  if (error != std::errc() || !(bytes >= 1) || bytes > 1e15) return std::nullopt;
  return uint64_t(bytes);
}

QuantSpec WeightQuant::spec() const {
  QuantSpec spec;
  spec.bits = int(bits.value_or(8));
  spec.per = per;
  spec.group = per == Per::group ? int(group) : 0;
  spec.range = range_of(symmetric, range);
  if (!symmetric && offset == Offset::minimum) spec.range = Range::minimum;
  spec.rule = scale;
  spec.scale_type = scale_type;
  spec.form = form;
  return spec;
}

QuantSpec ActivationQuant::spec() const {
  QuantSpec spec;
  spec.bits = int(bits.value_or(8));
  spec.per = per == ActivationPer::token   ? Per::row
             : per == ActivationPer::group ? Per::group
                                           : Per::tensor;
  spec.group = per == ActivationPer::group ? int(group) : 0;
  spec.division = divide;
  spec.range = range_of(symmetric, range);
  spec.rule = scale;
  spec.scale_type = scale_type;
  spec.form = form;
  return spec;
}

QuantSpec KvCacheQuant::spec(int64_t head_dim) const {
  QuantSpec spec;
  spec.bits = int(bits);
  spec.per = per == KvPer::token ? Per::row : Per::group;
  spec.group = per == KvPer::head ? int(head_dim) : per == KvPer::group ? int(group) : 0;
  // As ggml quantizes what it caches.
  if (type == KvType::q8_0 || type == KvType::q4_0) spec.division = Division::exact;
  spec.range = range_of(symmetric, range);
  spec.rule = scale;
  spec.scale_type = scale_type;
  return spec;
}

KvCacheQuant kv_cache_of(KvType type) {
  KvCacheQuant kv;
  kv.type = type;
  if (type == KvType::q4_0 || type == KvType::int4) kv.bits = 4;
  if (type == KvType::q8_0 || type == KvType::q4_0 || type == KvType::int4) {
    kv.per = KvPer::group;
    kv.group = 32;
  }
  if (type == KvType::q4_0) {
    kv.range = SymmetricRange::full;
    kv.scale = ScaleRule::signed_max;
  }
  if (type == KvType::int4) {
    kv.symmetric = false;
    kv.scale = ScaleRule::min_max;
  }
  return kv;
}

}  // namespace qat::recipe
