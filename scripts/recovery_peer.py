"""What torchao's 8da4w group-32 QAT wins back on SmolLM2-135M; prints one JSON line.

int4 symmetric weights in groups of 32, int8 asymmetric activations per token (what torchao offers),
fake quant from step 0, KL to the unquantized model, AdamW at a constant learning rate, the same
number of tokens as recipes/smollm2-w4a8.yaml. Measured in float32 on whole windows, the first token
of a window unscored, as qat-eval does.

    scripts/fetch model
    .venv-peers/bin/python scripts/recovery_peer.py --train DATA/text/peps_train.jsonl \\
        --eval DATA/text/peps_valid.jsonl DATA/text/wikitext2_raw_test_a.txt
"""

import argparse
import copy
import json
import math
import random
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as functional
from bench_peer import memory_bytes, prepare
from gguf_to_hf import convert
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gguf = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    parser.add_argument("--model", type=Path, default=gguf, help="a GGUF file")
    parser.add_argument("--train", type=Path, required=True, help="a .jsonl with a field text")
    parser.add_argument("--eval", type=Path, nargs="+", required=True)
    parser.add_argument("--mode", choices=["w4a8", "w8a8"], default="w4a8")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def records(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in text.splitlines()]
    return [text]


def training_windows(o: argparse.Namespace, tokenizer: Tokenizer) -> torch.Tensor:
    """[steps * batch, sequence] ids: shuffled records one after another, cut into windows."""
    texts = records(o.train)
    random.Random(o.seed).shuffle(texts)
    ids: list[int] = []
    wanted = o.steps * o.batch * o.sequence
    for text in texts:
        if len(ids) >= wanted:
            break
        ids += tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < wanted:
        raise SystemExit(f"{o.train} has {len(ids)} tokens, {wanted} are needed")
    return torch.tensor(ids[:wanted]).view(-1, o.sequence)


@torch.no_grad()
def perplexity(model, ids: torch.Tensor) -> float:
    model.eval()
    total = 0.0
    for window in ids:
        logits = model(window[None]).logits[0, :-1].float()
        total += functional.cross_entropy(logits, window[1:], reduction="sum").item()
    model.train()
    return math.exp(total / (ids.shape[0] * (ids.shape[1] - 1)))


def main() -> None:
    warnings.filterwarnings("ignore")
    o = arguments()
    torch.manual_seed(o.seed)
    folder = o.model.parent / "hf"
    if not (folder / "tokenizer.json").is_file():
        convert(o.model, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    held_out = {}
    for path in o.eval:
        ids = tokenizer.encode("\n\n".join(records(path)), add_special_tokens=False).ids
        count = min(o.windows, len(ids) // o.sequence)
        held_out[path.name] = torch.tensor(ids[: count * o.sequence]).view(count, o.sequence)

    # float32 parameters, computed in bf16: 150 steps of 2e-5 would vanish in bf16 parameters.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.use_cache = False
    teacher = copy.deepcopy(model).bfloat16().eval().requires_grad_(False)

    def measure(what: str) -> dict:
        found = {name: round(perplexity(model, ids), 4) for name, ids in held_out.items()}
        print(what, found, file=sys.stderr, flush=True)
        return found

    result = {"unquantized": measure("unquantized")}
    prepare(model, o.mode)
    result["ptq"] = measure("ptq")
    optimizer = torch.optim.AdamW(model.parameters(), lr=o.learning_rate, weight_decay=0.0, fused=True)
    windows = training_windows(o, tokenizer)
    started, kl_seen = time.perf_counter(), []
    for step in range(o.steps):
        ids = windows[step * o.batch : (step + 1) * o.batch]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = functional.log_softmax(teacher(ids).logits.float().flatten(0, 1), -1)
            student = functional.log_softmax(model(ids).logits.float().flatten(0, 1), -1)
        loss = functional.kl_div(student, wanted, log_target=True, reduction="batchmean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        kl_seen.append(loss.item())
        if (step + 1) % 10 == 0:
            print(f"step {step + 1}: kl {sum(kl_seen[-10:]) / 10:.4f}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - started
    result["qat"] = measure("qat")
    result["repaired"] = {
        n: round((result["ptq"][n] - result["qat"][n]) / (result["ptq"][n] - base), 4)
        for n, base in result["unquantized"].items()
    }
    result |= dict(mode=o.mode, steps=o.steps, batch=o.batch, sequence=o.sequence,
                   learning_rate=o.learning_rate, train_s=round(seconds, 1),
                   tokens_per_s=round(o.steps * o.batch * o.sequence / seconds, 1),
                   peak_memory_bytes=memory_bytes("VmHWM"))  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
