"""peft loads what a run exports, and bitsandbytes packs what we pack."""

import torch
from conftest import run_recipe
from peft import PeftModel
from reference import load, logits, mean_kl, windows

RECIPE = """
model: ${QAT_TEST_DATA}/stories260k
out: unused
data: {train: ["${QAT_TEST_DATA}/text/tinystories_train.jsonl"], sequence: 128}
train: {steps: 8, batch: 2, learning_rate: 5.0e-3}
dtype: fp32
"""


def exported(commands, folder, name, adapter):
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE + f"adapter: {adapter}\nexport: [peft, hf]\n")
    return run_recipe(commands, recipe, folder / name)


def test_peft_loads_the_adapter(commands, data, stories, tmp_path):
    """LoRA with a rank of its own scale, and DoRA on some matrices: peft's logits are the merged model's."""
    ids = windows(stories, data / "text" / "tinystories_valid.jsonl", 128, 4)
    for name, adapter in dict(
        lora="{kind: lora, r: 4, alpha: 12}",
        rslora="{kind: lora, r: 4, alpha: 4, use_rslora: true, target_modules: ['model.layers.1.*', q_proj]}",
        dora="{kind: dora, r: 4, alpha: 8, target_modules: [q_proj, down_proj]}",
    ).items():
        run = exported(commands, tmp_path, name, adapter)
        base = load(stories)
        wanted = logits(load(run / "export" / "hf"), ids)
        before = logits(base, ids)
        got = logits(PeftModel.from_pretrained(base, str(run / "export" / "peft")).eval(), ids)
        assert (got - wanted).abs().max() < 1e-4, name
        assert mean_kl(before, wanted) > 1e-5, name


def test_peft_on_an_nf4_base(commands, data, stories, tmp_path):
    """The adapter of an NF4 run on bitsandbytes' NF4 of the same matrices is our merged model."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    ids = windows(stories, data / "text" / "tinystories_valid.jsonl", 128, 4)
    run = exported(commands, tmp_path, "nf4", "{kind: lora, r: 4, alpha: 8, base: nf4, double_quant: false}")
    base = load(stories)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("_proj.weight"):
                codes, state = quantize_4bit(parameter.data.clone(), blocksize=64, quant_type="nf4")
                parameter.copy_(dequantize_4bit(codes, state))
            elif parameter.dim() == 2:
                parameter.copy_(parameter.bfloat16().float())
    got = logits(PeftModel.from_pretrained(base, str(run / "export" / "peft")).eval(), ids)
    assert (got - logits(load(run / "export" / "hf"), ids)).abs().max() < 1e-4
