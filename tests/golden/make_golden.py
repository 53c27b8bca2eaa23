"""Writes the golden files of this folder; PyTorch, transformers and bitsandbytes are the oracles.

Run with the packages of tests/peers/requirements.txt:
    ./scripts/venv .venv-peers tests/peers/requirements.txt 12
    .venv-peers/bin/python tests/golden/make_golden.py [FOLDER, else this one]
README.md beside this file says what each file holds. The same versions give the same files.
"""

import copy
import json
import math
import os
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torchao compiles its AdamW; one step is not worth that

import bitsandbytes
import torch
import torch.nn.functional as functional
import torchao.optim
from adapter_golden import write_adapters, write_packed
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.utils import logging

VOCABULARY, HIDDEN, FFN, LAYERS = 128, 64, 96, 2
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip


# ---- Tiny models of each family and their logits ------------------------------------------------


def families() -> dict:
    """name -> (config, dtype of the stored weights, keys of the config.json as an old release writes
    them or None for the present form, options of save_pretrained)."""
    llama3_rope = dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=32,
    )  # fmt: skip
    old_llama3 = {k: v for k, v in llama3_rope.items() if k != "rope_theta"}
    return {
        "llama": (
            LlamaConfig(**SHAPE, tie_word_embeddings=True),
            torch.float32, dict(rope_theta=10000.0, rope_scaling=None), {},
        ),
        "llama_untied": (
            LlamaConfig(**SHAPE, tie_word_embeddings=False),
            torch.bfloat16, dict(rope_theta=10000.0, rope_scaling=None), {},
        ),
        "llama3_rope": (
            LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=llama3_rope),
            torch.bfloat16, dict(rope_theta=500000.0, rope_scaling=old_llama3), {},
        ),
        "llama3_rope_new_keys": (
            LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=llama3_rope),
            torch.bfloat16, None, {},
        ),
        "linear_rope": (
            LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters=dict(
                rope_type="linear", rope_theta=10000.0, factor=4.0)),
            torch.bfloat16, dict(rope_theta=10000.0, rope_scaling=dict(type="linear", factor=4.0)), {},
        ),
        "mistral": (
            MistralConfig(**SHAPE, tie_word_embeddings=False, sliding_window=None, head_dim=16,
                          rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
            torch.bfloat16, None, dict(max_shard_size="60KB"),
        ),
        "qwen2": (
            Qwen2Config(**SHAPE, tie_word_embeddings=True,
                        rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
            torch.bfloat16, dict(rope_theta=1000000.0, rope_scaling=None), {},
        ),
        "qwen3": (
            Qwen3Config(**SHAPE, tie_word_embeddings=True, head_dim=32,
                        rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
            torch.bfloat16, None, {},
        ),
    }  # fmt: skip


def randomise(model, seed: int, dtype) -> None:
    """Weights large enough that every part of the model shows in the logits, exact in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                value = 1 + 0.2 * noise
            elif parameter.dim() == 1:
                value = 0.5 * noise
            else:
                value = noise * 1.2 / math.sqrt(parameter.shape[1])
            parameter.copy_(value.to(dtype).float())


def write_models(out: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, VOCABULARY, (2, 48), generator=generator)
    for seed, (name, (config, dtype, old_keys, options)) in enumerate(families().items()):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.iterdir():
            stale.unlink()
        if name == "llama3_rope_new_keys":
            seed -= 1  # the very weights of llama3_rope
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        randomise(model, 100 + seed, dtype)
        copy.deepcopy(model).to(dtype).save_pretrained(folder, **options)
        (folder / "generation_config.json").unlink(missing_ok=True)
        if old_keys is not None:
            path = folder / "config.json"
            written = json.loads(path.read_text())
            written.pop("rope_parameters", None)
            written.update(old_keys)
            written["torch_dtype"] = written.pop("dtype")
            path.write_text(json.dumps(written, indent=2) + "\n")
        # Read back, so that the logits are those of the files and not of what made them.
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            logits = model(ids).logits
            exact = model.double()(ids).logits
        print("%-22s logits rms %.3f, float32 against float64 %.1e" % (
            name, logits.pow(2).mean().sqrt(), (logits - exact).abs().max()))  # fmt: skip
        save_file({"ids": ids.int(), "logits": logits.contiguous()}, folder / "expected.safetensors")


# ---- Five training steps ------------------------------------------------------------------------

OPTIMIZER = dict(learning_rate=2e-3, beta1=0.9, beta2=0.95, eps=1e-6, clip=1.0,
                 weight_decay_matrices=0.1, weight_decay_vectors=0.0)  # fmt: skip
STEPS, BATCH, SEQUENCE = 5, 2, 32


class FakeQuantRows(torch.autograd.Function):
    """Symmetric strict int8, one scale a row, amax/127. It never clips, so straight-through is dy."""

    @staticmethod
    def forward(context, x):
        scale = x.abs().amax(-1, keepdim=True) / 127
        return torch.clamp(torch.round(x * (1 / scale)), -127, 127) * scale

    @staticmethod
    def backward(context, dy):
        return dy


def quantize_linears(model) -> None:
    """Every linear of every layer computes on fake-quantized weights (per output channel) and inputs
    (per token)."""

    def forward(linear):
        quantize = FakeQuantRows.apply
        return lambda x: functional.linear(quantize(x), quantize(linear.weight), linear.bias)

    for layer in model.model.layers:
        for name, module in layer.named_modules():
            if name.rsplit(".", 1)[-1] in LINEARS:
                module.forward = forward(module)


def train(student, teacher, tokens, precision) -> dict:
    """Five steps of AdamW (decay after the update, as bitsandbytes' CUDA kernel does it)."""
    student = student.to(precision)
    teacher = teacher.to(precision).eval() if teacher is not None else None
    parameters = {n: p for n, p in student.named_parameters() if p.requires_grad}
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in parameters.items()}
    o = OPTIMIZER
    losses, norms, first_gradients = [], [], {}
    for step in range(1, STEPS + 1):
        inputs, targets = tokens[step - 1, :, :-1], tokens[step - 1, :, 1:]
        logits = student(inputs).logits
        if teacher is None:
            loss = functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))
        else:
            with torch.no_grad():
                wanted = torch.log_softmax(teacher(inputs).logits, -1)
            loss = (wanted.exp() * (wanted - torch.log_softmax(logits, -1))).sum(-1).mean()
        student.zero_grad()
        loss.backward()
        if step == 1:
            first_gradients = {n: p.grad.clone() for n, p in parameters.items()}
        norm = math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in parameters.values()))
        losses.append(loss.item())
        norms.append(norm)
        factor = min(1.0, o["clip"] / norm)
        correction1, correction2 = 1 - o["beta1"] ** step, math.sqrt(1 - o["beta2"] ** step)
        with torch.no_grad():
            for name, p in parameters.items():
                m, v = moments[name]
                g = p.grad * factor
                m.mul_(o["beta1"]).add_(g, alpha=1 - o["beta1"])
                v.mul_(o["beta2"]).addcmul_(g, g, value=1 - o["beta2"])
                p.sub_(m / (v.sqrt() + o["eps"] * correction2)
                       * (o["learning_rate"] * correction2 / correction1))  # fmt: skip
                decay = o["weight_decay_matrices" if p.dim() > 1 else "weight_decay_vectors"]
                p.mul_(1 - o["learning_rate"] * decay)
    return dict(losses=losses, norms=norms, gradients=first_gradients,
                parameters={n: p.detach().clone() for n, p in parameters.items()})  # fmt: skip


def write_training(out: Path) -> None:
    folder = out / "training"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(11)
    # A sequence the model can learn something of: each id follows from the one before, with noise.
    tokens = torch.empty(STEPS, BATCH, SEQUENCE + 1, dtype=torch.long)
    tokens[..., 0] = torch.randint(0, VOCABULARY, (STEPS, BATCH), generator=generator)
    for t in range(SEQUENCE):
        noise = torch.randint(0, 4, (STEPS, BATCH), generator=generator)
        tokens[..., t + 1] = (tokens[..., t] * 5 + noise) % VOCABULARY

    def load(name):
        return AutoModelForCausalLM.from_pretrained(
            out / name, dtype=torch.float32, attn_implementation="eager"
        )

    runs = dict(plain=(False, None), w8a8=(True, None), w8a8_kl_self=(True, "llama"),
                w8a8_kl_mistral=(True, "mistral"))  # fmt: skip
    save_file({"tokens": tokens.int()}, folder / "tokens.safetensors")
    summary = dict(model="llama", batch=BATCH, sequence=SEQUENCE, optimizer=OPTIMIZER, runs={})
    for name, (quantized, teacher) in runs.items():
        results = {}
        for precision in (torch.float32, torch.float64):
            student = load("llama")
            if quantized:
                quantize_linears(student)
            results[precision] = train(
                student, load(teacher) if teacher else None, tokens, precision
            )
        single, double = results[torch.float32], results[torch.float64]

        def deviation(key):
            """Largest ||float32 - float64|| / ||float64|| of one tensor."""
            return max(
                ((single[key][n] - b).norm() / b.norm()).item() for n, b in double[key].items()
            )

        moved = {n: p - load("llama").state_dict()[n] for n, p in double["parameters"].items()}
        update = max(
            ((single["parameters"][n] - p).norm() / moved[n].norm()).item()
            for n, p in double["parameters"].items()
        )
        summary["runs"][name] = dict(
            quantized=quantized, teacher=teacher, losses=single["losses"],
            gradient_norms=single["norms"], losses_float64=double["losses"],
            gradient_norms_float64=double["norms"],
            float32_against_float64=dict(
                gradients=deviation("gradients"), parameters=deviation("parameters"), updates=update),
        )  # fmt: skip
        print(name, json.dumps(summary["runs"][name]["float32_against_float64"]))
        if name != "w8a8_kl_self":
            both = {f"gradient.{n}": g for n, g in double["gradients"].items()}
            both |= {f"parameter.{n}": p for n, p in double["parameters"].items()}
            save_file({n: t.float().contiguous() for n, t in both.items()},
                      folder / f"{name}.safetensors")  # fmt: skip
    (folder / "training.json").write_text(json.dumps(summary, indent=1) + "\n")


# ---- 8-bit AdamW --------------------------------------------------------------------------------


def nearest(values: torch.Tensor, code_map: torch.Tensor) -> torch.Tensor:
    """Index of the nearest code of values already divided by their block's absmax."""
    midpoints = (code_map[1:] + code_map[:-1]) / 2
    return torch.searchsorted(midpoints, values.contiguous()).to(torch.uint8)


def blocks(values: torch.Tensor) -> torch.Tensor:
    return functional.pad(values, (0, -values.numel() % 256)).view(-1, 256)


def write_adam8bit(folder: Path) -> None:
    count, steps = 5000, 4  # the last block is not full
    hyper = dict(learning_rate=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, steps=steps,
                 block=256)  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(count, generator=generator)
    gradients = torch.randn(steps, count, generator=generator) * 0.1
    gradients[:, 256:512] *= 1e-4  # a block of its own scale
    gradients[:, 512:768] *= torch.logspace(-9, 0, 256)  # a block that spans the whole map
    gradients[:, 1024:1280] = 0
    out = {"start": start, "gradients": gradients}
    out["map_signed"] = signed = create_dynamic_map(signed=True)
    out["map_unsigned"] = unsigned = create_dynamic_map(signed=False)

    # The rules of bitsandbytes' CUDA kernel, in float64: decay after the update, and a code of m whose
    # sign differs from m's moves by one. (Its CPU code is no oracle: see README.md.)
    o = hyper
    p = start.double().clone()
    m_codes = torch.full((count,), 127, dtype=torch.uint8)
    v_codes = torch.zeros(count, dtype=torch.uint8)
    m_absmax = v_absmax = torch.zeros(-(-count // 256))
    for step in range(1, steps + 1):
        g = gradients[step - 1].double()

        def stored(codes, code_map, absmax):
            values = code_map.double()[codes.long()]
            return (blocks(values) * absmax.double()[:, None]).flatten()[:count]

        m = o["beta1"] * stored(m_codes, signed, m_absmax) + (1 - o["beta1"]) * g
        v = o["beta2"] * stored(v_codes, unsigned, v_absmax) + (1 - o["beta2"]) * g * g
        correction1, correction2 = 1 - o["beta1"] ** step, math.sqrt(1 - o["beta2"] ** step)
        p -= o["learning_rate"] * correction2 / correction1 * m / (v.sqrt() + o["eps"] * correction2)
        p *= 1 - o["learning_rate"] * o["weight_decay"]
        m_absmax, v_absmax = (blocks(s).abs().amax(1).float() for s in (m, v))
        safe = [torch.where(a > 0, a, torch.ones(())) for a in (m_absmax, v_absmax)]
        m_codes = nearest((blocks(m).float() / safe[0][:, None]).flatten()[:count], signed)
        v_codes = nearest((blocks(v).float() / safe[1][:, None]).flatten()[:count], unsigned)
        flipped = torch.signbit(signed[m_codes.long()]) != torch.signbit(m)
        flipped &= m != 0
        out[f"step{step}.flipped"] = flipped.to(torch.uint8)
        m_codes = torch.where(flipped, torch.where(m > 0, m_codes + 1, m_codes - 1), m_codes)
        for name, value in dict(p=p.float(), m=m_codes, v=v_codes, m_absmax=m_absmax,
                                v_absmax=v_absmax).items():  # fmt: skip
            out[f"step{step}.{name}"] = value.clone()
    check_adam8bit(out, hyper)
    save_file({n: t.contiguous() for n, t in out.items()}, folder / "adam8bit.safetensors",
              metadata={k: str(v) for k, v in hyper.items()})  # fmt: skip


def check_adam8bit(out: dict, hyper: dict) -> None:
    """The first step against torchao's exact CPU code and against bitsandbytes' approximate one."""
    whole = out["start"].numel() // 256 * 256  # torchao takes whole blocks only
    options = dict(lr=hyper["learning_rate"], betas=(hyper["beta1"], hyper["beta2"]),
                   eps=hyper["eps"], weight_decay=0.0)  # fmt: skip
    wanted_p = out["step1.p"] / (1 - hyper["learning_rate"] * hyper["weight_decay"])

    p = torch.nn.Parameter(out["start"][:whole].clone())
    optimizer = torchao.optim.AdamW8bit([p], **options)
    p.grad = out["gradients"][0, :whole].clone()
    optimizer.step()
    state = optimizer.state[p]
    kept = (out["step1.flipped"][:whole] == 0) & (out["gradients"][0, :whole] != 0)
    for ours, theirs in dict(m="exp_avg", v="exp_avg_sq").items():
        codes = state[theirs].codes.flatten()[kept].int()
        different = codes - out[f"step1.{ours}"][:whole][kept].int()
        print(f"8-bit AdamW, {ours}: {(different != 0).sum().item()} of {kept.sum().item()} codes "
              f"differ from torchao's, by at most {different.abs().max().item()}")  # fmt: skip
        assert (different != 0).float().mean() < 2e-3 and different.abs().max() <= 1
    assert (p.detach() - wanted_p[:whole]).abs().max() < 2e-6

    p = torch.nn.Parameter(out["start"].clone())
    optimizer = bitsandbytes.optim.AdamW8bit([p], **options)
    p.grad = out["gradients"][0].clone()
    optimizer.step()
    assert (p.detach() - wanted_p).abs().max() < 2e-6
    for ours, theirs in dict(m="state1", v="state2").items():
        code_map = out["map_signed" if ours == "m" else "map_unsigned"]
        large = code_map[out[f"step1.{ours}"].long()].abs() > 1e-2
        different = optimizer.state[p][theirs][large].int() - out[f"step1.{ours}"][large].int()
        print(f"8-bit AdamW, {ours}: {(different != 0).sum().item()} of {large.sum().item()} large "
              f"codes differ from bitsandbytes' on the CPU")  # fmt: skip
        assert (different != 0).float().mean() < 5e-3 and different.abs().max() <= 1


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    write_models(out)
    write_training(out)
    write_adam8bit(out)
    write_adapters(out, train)
    write_packed(out)


if __name__ == "__main__":
    main()
