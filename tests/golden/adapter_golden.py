"""Golden files of adapters (peft) and of packed matrices (bitsandbytes); run by make_golden.py."""

import json
from pathlib import Path

import torch
from bitsandbytes.functional import quantize_4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RUNS = dict(
    lora=dict(r=4, lora_alpha=8, target_modules=ALL),
    rslora=dict(r=4, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]),
    dora=dict(r=4, lora_alpha=8, use_dora=True, target_modules=ALL),
)  # fmt: skip


def adapted(base: Path, options: dict):
    """The llama folder with an adapter whose B and magnitudes are not at their neutral start."""
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    torch.manual_seed(3)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **options))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_B." in name:
                p.normal_(0, 0.05)
            if ".lora_magnitude_vector." in name:
                p.mul_(1 + 0.1 * torch.randn_like(p))
    return model


def plain(name: str) -> str:
    """base_model.model.model.layers.0....lora_A.default.weight -> model.layers.0....lora_A.weight."""
    name = name.removeprefix("base_model.model.")
    if ".lora_magnitude_vector." in name:
        return name.split(".lora_magnitude_vector.")[0] + ".lora_magnitude_vector"
    return name.replace(".default.", ".")


def write_adapters(out: Path, train) -> None:
    """`train` is make_golden's: five steps, losses, norms, first gradients and last parameters."""
    folder = out / "adapters"
    folder.mkdir(exist_ok=True)
    tokens = torch.from_numpy(_tokens(out)).long()
    summary = {}
    for name, options in RUNS.items():
        model = adapted(out / "llama", options)
        model.save_pretrained(folder / name)
        (folder / name / "README.md").unlink(missing_ok=True)
        config = folder / name / "adapter_config.json"
        settings = json.loads(config.read_text())
        settings["base_model_name_or_path"] = "llama"
        settings["target_modules"] = sorted(settings["target_modules"])
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        with torch.no_grad():
            logits = model(tokens[0, :, :-1]).logits
        single = train(model, None, tokens, torch.float32)
        double = train(adapted(out / "llama", options), None, tokens, torch.float64)
        summary[name] = dict(losses=single["losses"], gradient_norms=single["norms"])
        tensors = {f"gradient.{plain(n)}": g for n, g in double["gradients"].items()}
        tensors |= {f"parameter.{plain(n)}": p for n, p in double["parameters"].items()}
        tensors["logits"] = logits
        save_file({n: t.float().contiguous() for n, t in tensors.items()},
                  folder / f"{name}.safetensors")  # fmt: skip
    (folder / "adapters.json").write_text(json.dumps(summary, indent=1) + "\n")


def _tokens(out: Path):
    from safetensors.numpy import load_file

    return load_file(out / "training" / "tokens.safetensors")["tokens"]


def write_packed(out: Path) -> None:
    generator = torch.Generator().manual_seed(17)
    x = torch.randn(128, 160, generator=generator) * 0.02  # 320 blocks: two nested ones
    x[5] *= 30
    x[9, :64] = 0
    tensors = {"x": x}
    for kind in ("nf4", "fp4"):
        codes, state = quantize_4bit(x, blocksize=64, quant_type=kind)
        tensors[f"{kind}.codes"] = codes.flatten()
        tensors[f"{kind}.absmax"] = state.absmax
    codes, state = quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    tensors["double.absmax"] = state.absmax
    tensors["double.nested_absmax"] = state.state2.absmax
    tensors["double.nested_offset"] = state.offset.reshape(1)
    codes, absmax, _ = torch.ops.bitsandbytes.int8_vectorwise_quant.default(x.clone(), 0.0)
    tensors["int8.codes"] = codes
    tensors["int8.absmax"] = absmax
    save_file({n: t.contiguous() for n, t in tensors.items()}, out / "packed.safetensors")
