// embedding: y_TC = rows of table_VC by ids_T.
#include "engine/graph/op.h"
#include "engine/ops/ops.h"

namespace qat {

namespace {

void bind_backward(BindContext& c) {
  c.run(c.kernels.embedding_backward, EmbeddingBackward{c.in(0), c.in(1), c.out(0), false});
}
const Op kEmbeddingBackward{
    .name = "embedding_backward", .bind = bind_backward, .accumulates = true};

void differentiate(GradContext& g) {
  if (!g.wants(0)) return;
  Builder& b = g.builder();
  g.add(0, b.append(kEmbeddingBackward, {g.output_grad(0), g.in(1)},
                    {{b.value(g.in(0)).shape, DType::f32}})[0]);
}

void bind(BindContext& c) {
  c.run(c.kernels.embedding, Embedding{c.in(0), c.in(1), c.out(0)});
}

}  // namespace

const Op kEmbedding{
    .name = "embedding", .differentiate = differentiate, .bind = bind, .cost = Cost::cheap};

Id embedding(Builder& b, Id table_VC, Id ids_T, DType dtype) {
  b.check(b.value(table_VC).shape.rank() == 2 && b.value(ids_T).dtype == DType::i32, "embedding",
          "needs a table [V, C] and i32 ids");
  return b.append(kEmbedding, {table_VC, ids_T},
                  {{{b.value(ids_T).shape[0], b.value(table_VC).shape[1]}, dtype}})[0];
}

}  // namespace qat
