"""Rotated runs: the same model, less lost in four bits, and what opens them computes the same."""

import json

import pytest
from conftest import ROOT, run_recipe
from run_test import metrics, perplexity

RECIPE = ROOT / "recipes" / "stories-w4a4-rotated.yaml"
SHORT = ["train.steps=16", "checkpoint.every=8", "evaluate.max_windows=64"]


@pytest.fixture(scope="module")
def rotated(commands, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "rotated"
    return run_recipe(commands, RECIPE, out, *SHORT, "quantize.kv_cache=int4")


@pytest.fixture(scope="module")
def folded(commands, data, tmp_path_factory):
    """All of it in the weights, so that other programs can read them."""
    out = tmp_path_factory.mktemp("runs") / "folded"
    return run_recipe(commands, RECIPE, out, *SHORT, "quantize.rotation={kind: hadamard, online: false}",
                      "export=[hf, hf-master]")  # fmt: skip


@pytest.fixture(scope="module")
def plain(commands, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "plain"
    return run_recipe(commands, RECIPE, out, *SHORT, "quantize.rotation=none", "quantize.kv_cache=int4")


def result_of(run) -> dict:
    return json.loads((run / "result.json").read_text())


def evaluate(commands, data, model, *arguments):
    return commands.json(
        "qat-eval", model, "--text", data / "text" / "tinystories_valid.jsonl", "--context", 128,
        "--max-windows", 64, "--json", *arguments,
    )  # fmt: skip


def test_the_source_stays_what_it_was(commands, data, stories, rotated, folded):
    source = evaluate(commands, data, stories)["perplexity"]
    for run in (rotated, folded):
        assert perplexity(result_of(run), "source") == pytest.approx(source, rel=1e-5)


def test_four_bits_lose_less(rotated, plain):
    source = perplexity(result_of(plain), "source")
    for stage in ("ptq", "qat"):
        lost, lost_plain = (perplexity(result_of(run), stage) - source for run in (rotated, plain))
        assert 0 < lost < 0.8 * lost_plain, stage
    kl = [m["kl"] for m in metrics(rotated)]
    assert sum(kl[-3:]) < sum(kl[:3])


def test_the_run_is_read_as_it_was_trained(commands, data, rotated):
    config = json.loads((rotated / "model" / "config.json").read_text())
    assert config["online_rotation"] == ["down_proj", "keys"]
    assert config["tie_word_embeddings"] is False
    # Other sums on the way move some codes of four bits.
    trained = perplexity(result_of(rotated), "qat")
    assert evaluate(commands, data, rotated)["perplexity"] == pytest.approx(trained, rel=5e-3)
    assert commands.said("qat-generate", rotated, "--prompt", "Once upon a time", "--max-tokens", 8)


def test_a_run_goes_on_from_a_rotated_one(commands, data, rotated, tmp_path):
    """The weights of the newest checkpoint, with the transforms they count on."""
    out = run_recipe(commands, RECIPE, tmp_path / "next", *SHORT, "train.steps=0",
                     "train.schedule.warmup=0", f"model={rotated}", "quantize.rotation=none")  # fmt: skip
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["online_rotation"] == ["down_proj", "keys"]
    # Unquantized, the trained weights are still a model of stories.
    assert perplexity(result_of(out), "source") < 1.5 * perplexity(result_of(rotated), "source")
    again = commands.complete("qat-train", RECIPE, "--out", tmp_path / "again", "--set", f"model={rotated}",
                              expect=2, cwd=ROOT)  # fmt: skip
    assert "this model is rotated already" in again.stderr


def test_exports(commands, data, rotated, folded, tmp_path):
    refused = commands.complete("qat-export", rotated, "--format", "hf", "-o", tmp_path / "hf",
                                expect=2, cwd=ROOT)  # fmt: skip
    assert "count on rotations as it runs" in refused.stderr
    config = json.loads((folded / "export" / "hf-master" / "config.json").read_text())
    assert "online_rotation" not in config and config["tie_word_embeddings"] is False
    trained = perplexity(result_of(folded), "qat")
    exported = result_of(folded)["exports"]["hf"]
    assert exported["kl"] < 1e-4, exported
    assert evaluate(commands, data, folded)["perplexity"] == pytest.approx(trained, rel=2e-5)


def test_killed_runs_go_on(commands, rotated, tmp_path):
    """The rotation is made once: a checkpoint holds what came of it."""
    from resume_test import SAME, killed_and_resumed

    out = killed_and_resumed(commands, rotated / "recipe.yaml", tmp_path)
    first, second = ([{key: m[key] for key in SAME} for m in metrics(run)] for run in (rotated, out))
    assert first == second
