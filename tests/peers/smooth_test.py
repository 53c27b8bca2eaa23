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
    """Columns take what the norm lost, and rows of v_proj and up_proj give what o_proj and down_proj take."""
    before = load(stories).state_dict()
    after = load(smoothed / "export" / "hf-master").state_dict()
    moved = 0

    def ratio(name: str, axis: int) -> torch.Tensor:
        """One factor a column (axis 0) or row (axis 1) of after / before, without those near 0."""
        old, new = before[name], after[name]
        return torch.where(old.abs() > 1e-3, new / old, torch.nan).nanmedian(axis).values

    for layer in range(5):
        prefix = f"model.layers.{layer}."
        for norm, linears in {
            "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
        }.items():
            name = f"{prefix}{norm}.weight"
            columns = before[name] / after[name]
            moved += (columns - 1).abs().max().item() > 1e-3
            for linear in linears:
                name = f"{prefix}{linear}.weight"
                expected = before[name] * columns
                if linear in ("self_attn.v_proj", "mlp.up_proj"):
                    reader = {"self_attn.v_proj": "self_attn.o_proj", "mlp.up_proj": "mlp.down_proj"}
                    taken = ratio(f"{prefix}{reader[linear]}.weight", 0)
                    if linear == "self_attn.v_proj":  # 8 query heads of 8 on 4 value heads
                        taken = taken.view(4, 2, 8)
                        torch.testing.assert_close(taken[:, 0], taken[:, 1], rtol=1e-3, atol=0)
                        taken = taken[:, 0].flatten()
                    moved += (taken - 1).abs().max().item() > 1e-3
                    expected = expected / taken[:, None]
                torch.testing.assert_close(after[name], expected, rtol=1e-3, atol=1e-5, msg=name)
    assert moved
