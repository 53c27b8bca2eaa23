#include "recipes/run/recipe/recipe.h"

namespace qat::recipe {
namespace {

Range range_of(bool symmetric, SymmetricRange range) {
  if (!symmetric) return Range::asymmetric;
  return range == SymmetricRange::strict ? Range::strict : Range::full;
}

}  // namespace

QuantSpec WeightQuant::spec() const {
  QuantSpec spec;
  spec.bits = int(bits.value_or(8));
  spec.per = per;
  spec.group = per == Per::group ? int(group) : 0;
  spec.range = range_of(symmetric, range);
  if (!symmetric && offset == Offset::minimum) spec.range = Range::minimum;
  spec.rule = scale;
  spec.scale_type = scale_type;
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
  return spec;
}

}  // namespace qat::recipe
