"""SmoothQuant, folded into the norms, changes the weights and not the function."""

import pytest
import torch
from conftest import ROOT, run_recipe
from reference import load, logits, windows


@pytest.fixture(scope="module", params=["0.5", "search"])
def smoothed(commands, data, tmp_path_factory, request):
    out = tmp_path_factory.mktemp("runs") / "smooth"
    return run_recipe(
        commands, ROOT / "recipes" / "stories-w8a8.yaml", out, "train.steps=0",
        "train.warmup_bf16=0", "train.schedule.warmup=0", f"quantize.smooth={request.param}",
        "export=[hf-master]",
    )  # fmt: skip


def test_function_is_preserved(smoothed, stories, data):
    ids = windows(stories, data / "text" / "tinystories_valid.jsonl", 128, 8)
    before, after = (logits(load(f), ids) for f in (stories, smoothed / "export" / "hf-master"))
    assert (before - after).abs().max() < 2e-4 * before.abs().max()


def test_factors_move_from_norm_to_weights(smoothed, stories):
    before = load(stories).state_dict()
    after = load(smoothed / "export" / "hf-master").state_dict()
    moved = 0
    for layer in range(5):
        prefix = f"model.layers.{layer}."
        for norm, linears in {
            "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
        }.items():
            name = f"{prefix}{norm}.weight"
            factors = before[name] / after[name]
            moved += (factors - 1).abs().max().item() > 1e-3
            for linear in linears:
                name = f"{prefix}{linear}.weight"
                torch.testing.assert_close(
                    after[name], before[name] * factors, rtol=1e-4, atol=1e-6, msg=name
                )
    assert moved
