"""Times training steps of PyTorch and torchao; prints one JSON line like qat-bench does.

The peer is given its best case: bf16 parameters and moments (we keep float32 masters), the fused
AdamW, no clipping. Quantization-aware training is torchao's, on the layers' linears; symmetric
per-token activations are refused by torchao, so w8a8 uses asymmetric ones there.

    .venv-peers/bin/python scripts/bench_peer.py --shape smol135m --batch 2 --sequence 512 \\
        --mode w8a8 [--kl] [--compile] [--optimizer adamw|bitsandbytes8|torchao8] [--masters fp32]
"""

import argparse
import copy
import json
import os
import statistics
import time
import warnings

import torch
import torch.nn.functional as functional
from torchao.quantization import quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "smol135m": dict(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True,
    ),
    "tiny15m": dict(
        hidden_size=288, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
        intermediate_size=768, vocab_size=32000, tie_word_embeddings=True,
    ),
}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="smol135m")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--mode", choices=["fp32", "bf16", "w8a8", "w4a8"], default="bf16")
    parser.add_argument("--kl", action="store_true", help="KL to a frozen copy, no cross-entropy")
    parser.add_argument("--compile", action="store_true", help="torch.compile the forward and loss")
    parser.add_argument(
        "--optimizer", choices=["adamw", "bitsandbytes8", "torchao8"], default="adamw"
    )
    parser.add_argument(
        "--masters", choices=["fp32", "bf16"], default="bf16",
        help="fp32: float32 parameters under bf16 autocast",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=5, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def prepare(model: torch.nn.Module, mode: str) -> None:
    """Puts torchao's fake quantization into every linear but the head."""
    if mode == "w8a8":
        weights = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
    elif mode == "w4a8":
        weights = IntxFakeQuantizeConfig(torch.int4, group_size=32, is_symmetric=True)
    else:
        return
    activations = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    quantize_(
        model,
        QATConfig(activation_config=activations, weight_config=weights, step="prepare"),
        filter_fn=lambda module, name: isinstance(module, torch.nn.Linear) and "lm_head" not in name,
    )


def make_optimizer(kind: str, parameters):
    options = dict(lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1)
    if kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    if kind == "torchao8":
        from torchao.optim import AdamW8bit

        return AdamW8bit(parameters, **options)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **options)


def memory_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (the peak since clear_refs) of this process."""
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def main() -> None:
    warnings.filterwarnings("ignore")
    o = arguments()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    imports = memory_bytes("VmRSS")
    dtype = torch.float32 if o.mode == "fp32" or o.masters == "fp32" else torch.bfloat16
    config = LlamaConfig(**SHAPES[o.shape], max_position_embeddings=max(2048, o.sequence))
    model = LlamaForCausalLM(config).to(dtype)
    model.config.use_cache = False
    teacher = copy.deepcopy(model).bfloat16().eval().requires_grad_(False) if o.kl else None
    prepare(model, o.mode)
    model.train()
    optimizer = make_optimizer(o.optimizer, model.parameters())
    autocast = o.masters == "fp32" and o.mode != "fp32"

    def loss_of(ids, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(ids).logits
        logits = logits.float().flatten(0, 1)
        if teacher is None:
            return functional.cross_entropy(logits, targets.flatten())
        with torch.no_grad():
            wanted = functional.log_softmax(teacher(ids).logits.float().flatten(0, 1), -1)
        student = functional.log_softmax(logits, -1)
        return functional.kl_div(student, wanted, log_target=True, reduction="batchmean")

    compute = torch.compile(loss_of) if o.compile else loss_of
    steps, optimizer_steps, losses = [], [], []
    for step in range(o.warmup + o.steps):
        ids = torch.randint(0, config.vocab_size, (o.batch, o.sequence + 1))
        if step == o.warmup:
            # The peak of steady steps: not of imports, of compiling or of making the model.
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        start = time.perf_counter()
        loss = compute(ids[:, :-1], ids[:, 1:])
        loss.backward()
        before = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        end = time.perf_counter()
        if step >= o.warmup:
            steps.append(end - start)
            optimizer_steps.append(end - before)
    seconds = statistics.median(steps)
    print(
        json.dumps(
            dict(
                who="torchao" if o.mode in ("w8a8", "w4a8") else "pytorch",
                shape=o.shape, batch=o.batch, sequence=o.sequence, mode=o.mode, kl=o.kl,
                compiled=o.compile, optimizer=o.optimizer, masters=o.masters, threads=o.threads,
                tokens_per_s=round(o.batch * o.sequence / seconds, 2),
                step_ms=round(seconds * 1e3, 2),
                fastest_step_ms=round(min(steps) * 1e3, 2),
                optimizer_ms=round(statistics.median(optimizer_steps) * 1e3, 2),
                peak_memory_bytes=memory_bytes("VmHWM"),
                imports_memory_bytes=imports,
                loss=losses[-1],
            )
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
