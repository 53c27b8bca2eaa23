"""qat-eval gives transformers' perplexity."""

import pytest
from reference import load, logits, perplexity, windows


def compare(commands, model, folder, text, context, most):
    ids = windows(folder, text, context, most)
    expected = perplexity(logits(load(folder), ids), ids)
    ours = commands.json("qat-eval", model, "--text", text, "--context", context,
                         "--max-windows", most, "--json")  # fmt: skip
    assert ours["tokens"] == ids.shape[0] * (context - 1)
    assert ours["perplexity"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["tinystories_valid.jsonl", "tinyshakespeare.txt"])
@pytest.mark.parametrize("context", [64, 256])
def test_stories260k(commands, stories, data, name, context):
    compare(commands, stories, stories, data / "text" / name, context, 40)


@pytest.mark.parametrize("name", ["wikitext2_raw_test_a.txt", "peps_valid.jsonl"])
def test_smollm2(commands, smollm2, smollm2_folder, data, name):
    compare(commands, smollm2, smollm2_folder, data / "text" / name, 256, 6)


def test_smollm2_from_hugging_face(commands, smollm2_folder, data):
    text = data / "text" / "peps_valid.jsonl"
    compare(commands, smollm2_folder, smollm2_folder, text, 128, 4)
