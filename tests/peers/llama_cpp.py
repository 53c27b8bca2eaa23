"""llama.cpp itself, through the C functions that the xllamacpp wheel carries."""

import ctypes
import os
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

import numpy
import torch
import xllamacpp
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize


class Parameters(ctypes.Structure):
    """llama_model_params or llama_context_params: defaults come from the library, the first numbers of
    the latter are n_ctx, n_batch, n_ubatch. Longer than either: what is behind them is not read."""

    _fields_ = [("numbers", c_uint32 * 256)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("count", c_int32),
        ("token", POINTER(c_int32)),
        ("embedding", c_void_p),
        ("position", POINTER(c_int32)),
        ("sequences", POINTER(c_int32)),
        ("sequence", POINTER(POINTER(c_int32))),
        ("wanted", POINTER(c_int8)),
    ]


LIBRARY = ctypes.CDLL(xllamacpp.xllamacpp.__file__)


def function(name: str, result, *arguments):
    found = getattr(LIBRARY, name)
    found.restype, found.argtypes = result, arguments
    return found


log_set = function("llama_log_set", None, c_void_p, c_void_p)
QUIET = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(lambda level, text, data: None)
log_set(ctypes.cast(QUIET, c_void_p), None)
backend_init = function("llama_backend_init", None)
backend_init()
model_defaults = function("llama_model_default_params", Parameters)
context_defaults = function("llama_context_default_params", Parameters)
model_load = function("llama_model_load_from_file", c_void_p, c_char_p, Parameters)
model_free = function("llama_model_free", None, c_void_p)
model_vocab = function("llama_model_get_vocab", c_void_p, c_void_p)
vocab_size = function("llama_vocab_n_tokens", c_int32, c_void_p)
context_new = function("llama_init_from_model", c_void_p, c_void_p, Parameters)
context_free = function("llama_free", None, c_void_p)
set_threads = function("llama_set_n_threads", None, c_void_p, c_int32, c_int32)
memory_of = function("llama_get_memory", c_void_p, c_void_p)
memory_clear = function("llama_memory_clear", None, c_void_p, c_bool)
batch_init = function("llama_batch_init", Batch, c_int32, c_int32, c_int32)
batch_free = function("llama_batch_free", None, Batch)
decode = function("llama_decode", c_int32, c_void_p, Batch)
logits_of = function("llama_get_logits_ith", POINTER(c_float), c_void_p, c_int32)
tokenize = function("llama_tokenize", c_int32, c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)  # fmt: skip
detokenize = function("llama_detokenize", c_int32, c_void_p, POINTER(c_int32), c_int32, c_char_p, c_int32, c_bool, c_bool)  # fmt: skip
quantize_chunk = function("ggml_quantize_chunk", c_size_t, c_int32, POINTER(c_float), c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, POINTER(c_float))  # fmt: skip


def ggml_quantize(type_id: int, rows: numpy.ndarray, block_bytes: int, block: int = 32) -> bytes:
    """The bytes of ggml's own quantizer."""
    rows = numpy.ascontiguousarray(rows, numpy.float32)
    out = ctypes.create_string_buffer(rows.size // block * block_bytes)
    written = quantize_chunk(type_id, rows.ctypes.data_as(POINTER(c_float)), out, 0, rows.shape[0], rows.shape[1], None)  # fmt: skip
    assert written == len(out)
    return out.raw


def more_bits(layer: int, layers: int) -> bool:
    """use_more_bits of llama-quant.cpp: every third layer, and those at either end."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


# What takes the place of a type whose blocks of 256 do not divide a row.
FALLBACKS = {
    GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_K: GGMLQuantizationType.Q5_1,
    GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0,
}


def type_in_mix(name: str, layers: int, mix: str) -> GGMLQuantizationType:
    """The type that llama-quantize gives a matrix (llama_tensor_get_type of llama-quant.cpp), of a dense model
    with fewer than eight query heads to a key head."""
    if name in ("token_embd.weight", "output.weight"):
        return GGMLQuantizationType.Q6_K
    if mix == "Q4_0":
        return GGMLQuantizationType.Q4_0
    layer = int(name.split(".")[1])
    if mix == "Q4_K_M" and ("attn_v" in name or "ffn_down" in name) and more_bits(layer, layers):
        return GGMLQuantizationType.Q6_K
    if mix == "Q4_K_S" and ("attn_v" in name and layer < 4 or "ffn_down" in name and layer < layers // 8):
        return GGMLQuantizationType.Q5_K
    return GGMLQuantizationType.Q4_K


def quantize_file(source: Path, target: Path, mix: str) -> None:
    """What llama-quantize makes of an unquantized file: its choice of types, and the bytes of ggml's own
    quantizers (the wheel does not carry llama_model_quantize itself)."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            more = {"sub_type": field.types[-1]} if field.types[0] == GGUFValueType.ARRAY else {}
            writer.add_key_value(field.name, field.contents(), field.types[0], **more)
    layers = reader.fields["llama.block_count"].contents()
    for tensor in reader.tensors:
        if len(tensor.shape) < 2:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        kind = type_in_mix(tensor.name, layers, mix)
        rows = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        kind = kind if rows.shape[1] % GGML_QUANT_SIZES[kind][0] == 0 else FALLBACKS[kind]
        width, size = GGML_QUANT_SIZES[kind]
        raw = ggml_quantize(kind.value, rows, size, width)
        packed = numpy.frombuffer(raw, numpy.uint8).reshape(rows.shape[0], -1)
        writer.add_tensor(tensor.name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """A GGUF file as llama.cpp runs it on the CPU with its defaults."""

    def __init__(self, path: Path, context: int = 512):
        self.model = model_load(str(path).encode(), model_defaults())
        assert self.model, f"llama.cpp does not load {path}"
        self.vocab = model_vocab(self.model)
        parameters = context_defaults()
        for i in range(3):
            parameters.numbers[i] = context
        self.context = context_new(self.model, parameters)
        assert self.context
        cores = len(os.sched_getaffinity(0))  # its own four threads spin, and wait for each other on two cores
        set_threads(self.context, cores, cores)
        self.size = vocab_size(self.vocab)

    def close(self):
        context_free(self.context)
        model_free(self.model)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def feed(self, ids: list[int], start: int = 0) -> torch.Tensor:
        """Logits of each of these tokens, the first at position `start`: [tokens, vocabulary]."""
        if start == 0:
            memory_clear(memory_of(self.context), True)
        batch = batch_init(len(ids), 0, 1)
        batch.count = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.position[i], batch.sequences[i] = token, start + i, 1
            batch.sequence[i][0], batch.wanted[i] = 0, 1
        assert decode(self.context, batch) == 0
        rows = [numpy.ctypeslib.as_array(logits_of(self.context, i), (self.size,)).copy() for i in range(len(ids))]
        batch_free(batch)
        return torch.from_numpy(numpy.stack(rows))

    def logits(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.feed(row.tolist()) for row in windows])

    def greedy(self, ids: list[int], most: int, stop: set[int]) -> list[int]:
        """The likeliest continuation, up to a stop token (left out) or `most` tokens."""
        out, last = [], self.feed(ids)[-1]
        while len(out) < most and (best := int(last.argmax())) not in stop:
            out.append(best)
            last = self.feed([best], len(ids) + len(out) - 1)[-1]
        return out

    def tokens(self, text: str, special: bool = False) -> list[int]:
        data = text.encode()
        out = (c_int32 * (len(data) + 8))()
        count = tokenize(self.vocab, data, len(data), out, len(out), special, True)
        assert count >= 0
        return list(out[:count])

    def text(self, ids: list[int]) -> str:
        out = ctypes.create_string_buffer(len(ids) * 64 + 64)
        count = detokenize(self.vocab, (c_int32 * len(ids))(*ids), len(ids), out, len(out), False, True)
        assert count >= 0
        return out.raw[:count].decode()
