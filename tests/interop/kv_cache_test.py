"""A KV cache in few bits: trained, evaluated and generated with as it is stored."""

import json

import pytest
from conftest import ROOT, run_recipe


@pytest.fixture(scope="module")
def kv_run(commands, data, tmp_path_factory):
    """A model whose KV cache alone is quantized."""
    out = tmp_path_factory.mktemp("runs") / "kv"
    return run_recipe(
        commands, ROOT / "recipes" / "stories-w8a8.yaml", out, "quantize={preset: none, kv_cache: q4_0}",
        "train.steps=6", "train.warmup_bf16=2", "train.enable.every=1", "train.enable.layers=2",
        "checkpoint.every=3", "export=[hf,gguf]",
    )  # fmt: skip


def evaluate(commands, run, *arguments):
    recipe = (run / "recipe.yaml").read_text()
    text = next(iter(json.loads((run / "result.json").read_text())["evaluations"]["qat"]))
    context = next(line.split()[1] for line in recipe.splitlines() if line.strip().startswith("context:"))
    windows = next(line.split()[1] for line in recipe.splitlines() if line.strip().startswith("max_windows:"))
    return text, commands.json(
        "qat-eval", run, "--text", text, "--context", context, "--max-windows", windows, "--json", *arguments
    )


def test_stored_codes_are_what_was_trained(commands, kv_run):
    result = json.loads((kv_run / "result.json").read_text())["evaluations"]
    text, stored = evaluate(commands, kv_run)
    assert stored["kv_cache"] == {"bits": 4, "form": "integer", "symmetric": True, "per": "group", "group": 32}
    assert stored["nll"] == pytest.approx(result["qat"][text]["nll"], rel=2e-5)
    plain = evaluate(commands, kv_run, "--kv", "f32")[1]
    assert plain["kv_cache"] is None
    eight = evaluate(commands, kv_run, "--kv", "q8_0")[1]
    assert abs(eight["nll"] - plain["nll"]) < abs(stored["nll"] - plain["nll"])
    assert result["ptq"][text]["nll"] != result["source"][text]["nll"]


@pytest.mark.parametrize("kv", ["f32", "q8_0", "q4_0", "int8", "int4"])
def test_generates_with_every_type(commands, stories, kv_run, kv):
    said = commands.said("qat-generate", kv_run, "--prompt", "Once upon a time", "--max-tokens", 8, "--kv", kv)
    assert "Once upon a time" in said
    assert ("KV cache: " in said) == (kv != "f32")


def test_a_run_generates_as_it_was_trained(commands, kv_run):
    said = commands.said("qat-generate", kv_run, "--prompt", "Once", "--max-tokens", 2)
    assert "KV cache: int4 per group of 32, scales in f16, 4.50 bits a value" in said


def test_exports_say_what_the_runtime_must_be_told(commands, kv_run, tmp_path):
    said = commands.said("qat-export", kv_run, "--format", "gguf", "-o", tmp_path / "m.gguf")
    assert "--cache-type-k q4_0 --cache-type-v q4_0" in said
    said = commands.said("qat-export", kv_run, "--format", "hf", "-o", tmp_path / "hf")
    assert "trained for a KV cache in int4 per group of 32" in said
    assert "kv_cache" not in json.loads((tmp_path / "hf" / "config.json").read_text()).get("quantization_config", {})
