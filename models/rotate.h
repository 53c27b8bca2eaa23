// Rotations of a decoder that leave what it computes (QuaRot; Ashkboos et al., 2024; SpinQuant; Liu
// et al., 2025), so that no channel stands out and few bits hold every value:
//
//   R1  the residual stream: embeddings and all that writes to it turn by R1, all that reads it by
//       its inverse. Norms see only a length, so their weights are folded into their readers first.
//   R2  each head of v_proj and, on the other side of attention, of o_proj's columns.
//   R3  queries and keys after RoPE, as the model runs: their products stay.   (online_keys)
//   R4  the inputs of down_proj, as the model runs; its weights hold the way back. (online_down)
//
// A final norm with weights tells a tied head from the embeddings, so the head becomes a matrix of
// its own (lm_head.weight).
#pragma once

#include <cstdint>
#include <string>

#include "engine/runtime/store.h"
#include "kernels/stream.h"
#include "models/config.h"

namespace qat {

/// What is rotated as the model runs.
struct OnlineRotations {
  bool down = false, keys = false;
};

/// The configuration of the rotated model. Refuses one that is rotated already.
ModelConfig rotated(ModelConfig config, const OnlineRotations& online);
/// The config.json of a rotated model, made from its source's.
std::string rotated_config_json(const std::string& config_json, const ModelConfig& rotated);
/// "residual stream 576 (Hartley 9 x Hadamard 64), ...", for the log.
std::string describe_rotation(const ModelConfig& rotated);

/// Rotates the parameters in the Store (without prefix); `rotated` is their configuration after it.
/// Makes lm_head.weight where there is none. Signs follow from the seed.
void rotate(const ModelConfig& rotated, uint64_t seed, Store& store, Stream& stream);

}  // namespace qat
