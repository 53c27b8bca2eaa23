"""transformers loads what a run exports, and computes what we compute."""

import importlib

import pytest
import torch
from reference import load, logits, mean_kl, perplexity, quantize_inputs, windows

CONTEXT, WINDOWS = 128, 12


@pytest.fixture(scope="module", params=["short_run", "ptq_run"])
def run(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def ids(stories, data):
    return windows(stories, data / "text" / "tinystories_valid.jsonl", CONTEXT, WINDOWS)


@pytest.fixture(scope="module")
def fake_quant_logits(run, ids):
    """Our fake-quant forward, rebuilt from the exported on-grid weights."""
    model = load(run / "export" / "hf")
    quantize_inputs(model)
    return logits(model, ids)


def test_run_directory_is_the_deployed_model(commands, run, ids, data, fake_quant_logits):
    ours = commands.json("qat-eval", run, "--text", data / "text" / "tinystories_valid.jsonl",
                         "--context", CONTEXT, "--max-windows", WINDOWS, "--json")  # fmt: skip
    assert ours["perplexity"] == pytest.approx(perplexity(fake_quant_logits, ids), rel=1e-3)


@pytest.fixture(scope="module")
def packed(run):
    return load(run / "export" / "compressed-tensors")


def test_compressed_tensors_logits(run, packed, ids):
    """What transformers makes of the packed directory is our fake-quant forward.

    Per token, transformers emulates activations on the scale amax/127.5 where we and vLLM use
    amax/127, so the two round differently. Here our forward takes the scale of transformers.
    """
    model = load(run / "export" / "hf")
    quantize_inputs(model, divisor=127.5)
    assert mean_kl(logits(model, ids), logits(packed, ids)) <= 5e-4


def test_compressed_tensors_logits_on_our_scale(packed, ids, fake_quant_logits, monkeypatch):
    """The other way round: transformers with the scale amax/127, as vLLM runs these files."""
    forward = importlib.import_module("compressed_tensors.quantization.lifecycle.forward")

    def scale_of_127(value, args, module, global_scale=None):
        assert args.strategy == "token" and args.symmetric
        scale = (value.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
        return scale, torch.zeros_like(scale)

    monkeypatch.setattr(forward, "compute_dynamic_scales_and_zp", scale_of_127)
    assert mean_kl(fake_quant_logits, logits(packed, ids)) <= 5e-4


def test_the_two_scales_differ_like_noise(packed, ids, fake_quant_logits):
    """Left as it is, transformers is as far from us as two roundings of the same activations."""
    assert mean_kl(fake_quant_logits, logits(packed, ids)) <= 3e-3


def test_masters_differ_from_the_grid(run, ids):
    on_grid, masters = (logits(load(run / "export" / name), ids) for name in ("hf", "hf-master"))
    assert 1e-9 < mean_kl(masters, on_grid) < 0.02


def test_masters_of_an_untrained_run_are_the_source(ptq_run, stories, ids):
    source, masters = (logits(load(f), ids) for f in (stories, ptq_run / "export" / "hf-master"))
    assert (source - masters).abs().max() == 0
