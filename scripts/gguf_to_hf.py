"""Turns a llama GGUF with a byte-level BPE vocabulary into a Hugging Face directory in float32.

Written against the formats' documentation and the gguf package, not against our own reader, so that
tests may compare the two.     python scripts/gguf_to_hf.py MODEL.gguf DIRECTORY
"""

import json
import re
import sys
from pathlib import Path

import numpy
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PLAIN = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def field(reader: GGUFReader, key: str, default=None):
    found = reader.get_field(key)
    return default if found is None else found.contents()


def hugging_face_name(name: str) -> str:
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if block:
        return f"model.layers.{block[1]}.{IN_BLOCK[block[2]]}.weight"
    return PLAIN[name.removesuffix(".weight")] + ".weight"


def half_split_rows(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Rows of a head from neighbouring pairs (llama.cpp) to two halves (Hugging Face)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(0, 2, 1, 3).reshape(rows, columns)


def weights(reader: GGUFReader) -> dict[str, numpy.ndarray]:
    heads = field(reader, "llama.attention.head_count")
    kv_heads = field(reader, "llama.attention.head_count_kv", heads)
    out = {}
    for tensor in reader.tensors:
        value = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        name = hugging_face_name(tensor.name)
        if "q_proj" in name or "k_proj" in name:
            value = half_split_rows(value, heads if "q_proj" in name else kv_heads)
        out[name] = numpy.ascontiguousarray(value)
    return out


def config(reader: GGUFReader, tensors: dict) -> dict:
    heads = field(reader, "llama.attention.head_count")
    hidden = field(reader, "llama.embedding_length")
    return dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
        hidden_size=hidden, num_attention_heads=heads,
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_key_value_heads=field(reader, "llama.attention.head_count_kv", heads),
        head_dim=field(reader, "llama.attention.key_length", hidden // heads),
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_theta=field(reader, "llama.rope.freq_base", 10000.0),
        vocab_size=len(tensors["model.embed_tokens.weight"]),
        tie_word_embeddings="lm_head.weight" not in tensors,
        bos_token_id=field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=field(reader, "tokenizer.ggml.eos_token_id"), torch_dtype="float32",
    )  # fmt: skip


def tokenizer(reader: GGUFReader) -> Tokenizer:
    """The byte-level BPE tokenizer that the metadata describes."""
    pre = field(reader, "tokenizer.ggml.pre")
    splits = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "starcoder": [pre_tokenizers.Digits(individual_digits=True)],
        "gpt-2": [],
    }
    if field(reader, "tokenizer.ggml.model") != "gpt2" or pre not in splits:
        raise ValueError(f"no rule for the pre-tokenizer {pre}")
    tokens = field(reader, "tokenizer.ggml.tokens")
    kinds = field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits[pre], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == 3]
    )
    return made


def convert(source: Path, folder: Path) -> None:
    reader = GGUFReader(source)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights(reader)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(reader, tensors), indent=2) + "\n")
    tokenizer(reader).save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
