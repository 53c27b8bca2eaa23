"""Writes gguf_blocks.txt: random blocks of each type and what the gguf package (0.19) decodes.

One line a type: id, hex of the bytes, hex of the decoded little-endian floats.
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

rng = np.random.default_rng(7)
halves = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2],
          T.Q5_K: [0, 2], T.Q6_K: [208], T.BF16: [], T.F16: []}
lines = []
for kind, at in halves.items():
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = max(2, 64 // elements)
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    for offset in at:  # finite scales, one of them subnormal
        scales = (rng.standard_normal(blocks) * 0.01).astype(np.float16)
        scales[-1] = np.float16(3e-6)
        raw[:, offset:offset + 2] = scales.view(np.uint8).reshape(blocks, 2)
    if kind == T.BF16:
        raw[:] = (rng.standard_normal(blocks).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(blocks, 2)
    if kind == T.F16:
        raw[:] = rng.standard_normal(blocks).astype(np.float16).view(np.uint8).reshape(blocks, 2)
        raw[0] = np.array([1e-7], dtype=np.float16).view(np.uint8)
    values = dequantize(raw.reshape(1, -1), kind).astype(np.float32)
    lines.append(f"{int(kind)} {raw.tobytes().hex()} {values.tobytes().hex()}\n")
(pathlib.Path(__file__).parent / "gguf_blocks.txt").write_text("".join(lines))
