"""qat-eval gives transformers' perplexity."""

import pytest
from reference import load, logits, perplexity, windows


def compare(commands, model, folder, text, context, most, *options):
    ids = windows(folder, text, context, most)
    expected = perplexity(logits(load(folder), ids), ids)
    ours = commands.json("qat-eval", model, "--text", text, "--context", context,
                         "--max-windows", most, "--json", *options)  # fmt: skip
    assert ours["tokens"] == ids.shape[0] * (context - 1)
    assert ours["perplexity"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["tinystories_valid.jsonl", "tinyshakespeare.txt"])
@pytest.mark.parametrize("context", [64, 256])
def test_stories260k(commands, stories, data, name, context):
    compare(commands, stories, stories, data / "text" / name, context, 40)


@pytest.mark.parametrize("name", ["wikitext2_raw_test_a.txt", "peps_valid.jsonl"])
def test_smollm2(commands, smollm2, smollm2_folder, data, name):
    """A GGUF file's weights; llama.cpp's int8 activations, which qat-eval computes too, left out."""
    text = data / "text" / name
    compare(commands, smollm2, smollm2_folder, text, 256, 6, "--activations", "float")


def test_activations_as_llama_cpp_computes_them(commands, smollm2, smollm2_folder, data):
    """They cost something, but not much."""
    text = data / "text" / "peps_valid.jsonl"
    ids = windows(smollm2_folder, text, 256, 6)
    expected = perplexity(logits(load(smollm2_folder), ids), ids)
    ours = commands.json("qat-eval", smollm2, "--text", text, "--context", 256,
                         "--max-windows", 6, "--json")  # fmt: skip
    assert 1.0005 * expected < ours["perplexity"] < 1.03 * expected


def test_smollm2_from_hugging_face(commands, smollm2_folder, data):
    text = data / "text" / "peps_valid.jsonl"
    compare(commands, smollm2_folder, smollm2_folder, text, 128, 4)
