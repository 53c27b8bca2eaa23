"""transformers loads what a run exports, and computes what we compute."""

import pytest
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


def test_compressed_tensors_logits(run, ids, fake_quant_logits):
    """transformers emulates activations with amax/127.5 where we and vLLM use amax/127."""
    peer = logits(load(run / "export" / "compressed-tensors"), ids)
    assert mean_kl(fake_quant_logits, peer) <= 5e-4


def test_masters_differ_from_the_grid(run, ids):
    on_grid, masters = (logits(load(run / "export" / name), ids) for name in ("hf", "hf-master"))
    assert 1e-9 < mean_kl(masters, on_grid) < 0.02


def test_masters_of_an_untrained_run_are_the_source(ptq_run, stories, ids):
    source, masters = (logits(load(f), ids) for f in (stories, ptq_run / "export" / "hf-master"))
    assert (source - masters).abs().max() == 0
