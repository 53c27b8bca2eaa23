"""The packed formats in transformers with compressed-tensors and in gptqmodel, for three families of
models."""

import shutil

import pytest
import torch
from gptqmodel import BACKEND, GPTQModel
from reference import e4m3_inputs, load, logits, mean_kl, perplexity, quantize_inputs, windows
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

FAMILIES = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 32},
}
CONTEXT, WINDOWS = 64, 8


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, stories, tmp_path_factory):
    """A small random model whose widths the kernels like, with the stories' tokenizer."""
    out = tmp_path_factory.mktemp("models") / request.param
    torch.manual_seed(1)
    settings = dict(FAMILIES[request.param])
    config = AutoConfig.for_model(
        settings.pop("model_type"), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=512, max_position_embeddings=256,
        initializer_range=0.08, pad_token_id=0, **settings,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).float().save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stories / name, out / name)
    return out


@pytest.fixture(scope="module")
def ids(stories, data):
    return windows(stories, data / "text" / "tinystories_valid.jsonl", CONTEXT, WINDOWS)


@pytest.mark.parametrize("preset", ["ct_w4a16_g128", "ct_w8a8", "ct_w4a8"])
def test_compressed_tensors(commands, model, ids, data, tmp_path, preset):
    text = data / "text" / "tinystories_valid.jsonl"
    said = commands.json("qat-export", model, "--format", "compressed-tensors", "-o",
                         tmp_path / "ct", "--ptq", preset, "--text", text, "--json")  # fmt: skip
    assert said["kl"] <= 5e-4
    commands.run("qat-export", tmp_path / "ct", "--format", "hf", "-o", tmp_path / "hf")
    reference = load(tmp_path / "hf")
    if preset != "ct_w4a16_g128":
        quantize_inputs(reference)
    ours = logits(reference, ids)
    evaluated = commands.json("qat-eval", tmp_path / "ct", "--text", text, "--context", CONTEXT,
                              "--max-windows", WINDOWS, "--json")  # fmt: skip
    # Measured: weights alone agree to 6e-8. Of activations codes flip with the order of a sum, which takes
    # transformers in float32 1.4e-4 from itself in float64, and us up to 2.8e-4 from the latter.
    rel = 1e-5 if preset == "ct_w4a16_g128" else 5e-4
    assert evaluated["perplexity"] == pytest.approx(perplexity(ours, ids), rel=rel)
    if preset != "ct_w4a16_g128":  # their activations have the scale of 127.5, see export_test.py
        reference = load(tmp_path / "hf")
        quantize_inputs(reference, divisor=127.5)
        ours = logits(reference, ids)
    theirs = load(tmp_path / "ct")
    assert mean_kl(ours, logits(theirs, ids)) <= 5e-4


def test_float8(commands, model, ids, data, tmp_path):
    """Codes are PyTorch's cast of the masters to float8_e4m3fn, bit for bit, and transformers computes our
    forward with them."""
    text = data / "text" / "tinystories_valid.jsonl"
    said = commands.json("qat-export", model, "--format", "compressed-tensors", "-o", tmp_path / "ct",
                         "--ptq", "ct_fp8", "--text", text, "--json")  # fmt: skip
    assert said["kl"] <= 5e-4
    masters = load_file(model / "model.safetensors")
    stored = load_file(tmp_path / "ct" / "model.safetensors")
    compared = 0
    for name, codes in stored.items():
        if codes.dtype != torch.float8_e4m3fn:
            continue
        master = masters[name]
        scale = stored[name + "_scale"].float()
        assert torch.equal(scale, (master.abs().amax(1, keepdim=True) / 448).bfloat16().float())
        expected = (master * (1 / scale)).clamp(-448, 448).to(torch.float8_e4m3fn)
        assert torch.equal(codes.view(torch.uint8), expected.view(torch.uint8)), name
        compared += 1
    assert compared == 14
    commands.run("qat-export", tmp_path / "ct", "--format", "hf", "-o", tmp_path / "hf")
    reference = load(tmp_path / "hf")
    e4m3_inputs(reference)
    ours = logits(reference, ids)
    evaluated = commands.json("qat-eval", tmp_path / "ct", "--text", text, "--context", CONTEXT,
                              "--max-windows", WINDOWS, "--json")  # fmt: skip
    assert evaluated["perplexity"] == pytest.approx(perplexity(ours, ids), rel=5e-4)
    theirs = load(tmp_path / "ct")
    assert mean_kl(ours, logits(theirs, ids)) <= 5e-4


def in_gptqmodel(folder, kernel):
    """The model as gptqmodel itself reads and multiplies it, in half precision: its kernels know no other."""
    loaded = GPTQModel.load(str(folder), device="cpu", backend=kernel, dtype=torch.float16)
    kinds = {type(module).__name__ for module in loaded.model.modules()}
    assert kinds & {"TorchLinear", "AwqTorchLinear"}, kinds
    return loaded.model.eval()


@pytest.mark.parametrize(("layout", "preset", "kernel"), [
    ("gptq", "gptq_w4_g128", BACKEND.GPTQ_TORCH),
    ("gptq", "gptq_w8", BACKEND.GPTQ_TORCH),
    ("gptq", "portable_w4", BACKEND.GPTQ_TORCH),
    ("awq", "awq_w4_g128", BACKEND.AWQ_TORCH),
])  # fmt: skip
def test_gptqmodel(commands, model, ids, data, tmp_path, layout, preset, kernel):
    text = data / "text" / "tinystories_valid.jsonl"
    commands.run("qat-export", model, "--format", layout, "-o", tmp_path / layout, "--ptq", preset,
                 "--text", text)  # fmt: skip
    commands.run("qat-export", tmp_path / layout, "--format", "hf", "-o", tmp_path / "hf")
    ours = logits(load(tmp_path / "hf"), ids)
    with torch.compiler.set_stance("force_eager"):  # it compiles for 10 s what runs for 1
        theirs = logits(in_gptqmodel(tmp_path / layout, kernel), ids)
    assert mean_kl(ours, theirs) <= 1e-5
    evaluated = commands.json("qat-eval", tmp_path / layout, "--text", text, "--context", CONTEXT,
                              "--max-windows", WINDOWS, "--json")  # fmt: skip
    assert evaluated["perplexity"] == pytest.approx(perplexity(theirs, ids), rel=1e-3)
