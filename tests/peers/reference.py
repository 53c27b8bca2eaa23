"""What transformers computes, in the conventions of our commands."""

import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load(folder: Path, **options):
    options.setdefault("dtype", torch.float32)
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def read_text(path: Path) -> str:
    """A text file whole; the records of a .jsonl joined by a blank line."""
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix == ".jsonl":
        return "\n\n".join(json.loads(line)["text"] for line in text.splitlines())
    return text


def windows(folder: Path, text: Path, context: int, most: int) -> torch.Tensor:
    """Consecutive windows of `context` tokens, the partial one at the end dropped: [windows, context]."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(read_text(text), add_special_tokens=False).ids
    count = min(len(ids) // context, most)
    return torch.tensor(ids[: count * context]).view(count, context)


@torch.no_grad()
def logits(model, ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(row[None]).logits.float() for row in ids])


def perplexity(all_logits: torch.Tensor, ids: torch.Tensor) -> float:
    """The first token of a window is not scored."""
    log_probabilities = torch.log_softmax(all_logits[:, :-1].double(), -1)
    scored = log_probabilities.gather(-1, ids[:, 1:, None])
    return math.exp(-scored.mean().item())


def mean_kl(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """KL(wanted || got) in nats, mean over the tokens."""
    p, q = (torch.log_softmax(x.double(), -1) for x in (wanted, got))
    return (p.exp() * (p - q)).sum(-1).mean().item()


def quantize_inputs(model, divisor: float = 127) -> None:
    """Each linear of each layer sees its input on a per-token int8 grid of scale amax/divisor.

    127 is vLLM's and ours; transformers emulates the same files with 127.5 and the code -128.
    """
    lowest = -128 if divisor > 127 else -127

    def on_grid(module, inputs):
        x = inputs[0]
        scale = (x.abs().amax(-1, keepdim=True) / divisor).clamp_min(1e-30)
        return (torch.clamp(torch.round(x / scale), lowest, 127) * scale,)

    hooked = 0
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in LINEARS:
            module.register_forward_pre_hook(on_grid)
            hooked += 1
    assert hooked == 7 * model.config.num_hidden_layers


def e4m3_inputs(model) -> None:
    """Each linear of each layer sees its input as float8 with a scale of amax/448 a token."""

    def on_grid(module, inputs):
        x = inputs[0]
        scale = (x.abs().amax(-1, keepdim=True) / 448).clamp_min(1e-30)
        return ((x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale,)

    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in LINEARS:
            module.register_forward_pre_hook(on_grid)


def q8_0_blocks(x: torch.Tensor) -> torch.Tensor:
    """What llama.cpp makes of a row before it meets Q8_0, Q4_0 or Q4_1: quantize_row_q8_0."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    exact = blocks.abs().amax(-1, keepdim=True) / 127
    codes = torch.round(blocks * torch.where(exact > 0, 1 / exact, 0))
    return (codes * exact.half().float()).reshape(x.shape)


def as_llama_cpp_computes(folder):
    """On-grid weights in transformers, inputs of quantized matrices in Q8_0 blocks."""
    model = load(folder)
    hook = lambda module, inputs: (q8_0_blocks(inputs[0]),)  # noqa: E731
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if (last in LINEARS or last == "lm_head") and module.in_features % 32 == 0:
            module.register_forward_pre_hook(hook)
    return model
