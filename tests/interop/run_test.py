"""A short real run: what it leaves behind, and what a second start of it does."""

import json

import numpy
import pytest
from conftest import ROOT, run_recipe
from safetensors.numpy import load_file

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STORIES = ROOT / "recipes" / "stories-w8a8.yaml"


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in open(run / "metrics.jsonl", encoding="utf-8")]


def everything_in(folder) -> dict:
    """path -> (size, time of the last change) of every file."""
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def perplexity(result: dict, kind: str) -> float:
    return next(iter(result["evaluations"][kind].values()))["perplexity"]


def test_metrics_hold_each_step_once(short_run):
    steps = metrics(short_run)
    assert [m["step"] for m in steps] == list(range(1, 25))
    assert all(numpy.isfinite(m["loss"]) for m in steps)
    enabled = [m["enabled_layers"] for m in steps]
    assert enabled[0] == 0 and enabled[-1] == 5 and enabled == sorted(enabled)


def test_result_has_the_three_perplexities(short_run):
    """8 bits cost this model little, and training does not make it worse."""
    result = json.loads((short_run / "result.json").read_text())
    found = {kind: perplexity(result, kind) for kind in ("source", "ptq", "qat")}
    assert 4 < found["source"] < 7, found
    assert found["ptq"] == pytest.approx(found["source"], rel=0.05), found
    assert found["qat"] == pytest.approx(found["source"], rel=0.05), found


@pytest.mark.parametrize("kind", ["source", "ptq", "qat"])
def test_qat_eval_repeats_the_table(commands, short_run, ptq_run, stories, data, kind):
    """What the run measured in memory is what qat-eval measures on the files it left."""
    result = json.loads((short_run / "result.json").read_text())
    model = {"source": stories, "ptq": ptq_run, "qat": short_run}[kind]
    ours = commands.json("qat-eval", model, "--text", data / "text" / "tinystories_valid.jsonl",
                         "--context", 128, "--max-windows", 64, "--json")  # fmt: skip
    assert ours["perplexity"] == pytest.approx(perplexity(result, kind), rel=1e-5)


def test_exported_codes_are_on_the_grid(short_run):
    packed = load_file(short_run / "export" / "compressed-tensors" / "model.safetensors")
    on_grid = load_file(short_run / "export" / "hf" / "model.safetensors")
    masters = load_file(short_run / "export" / "hf-master" / "model.safetensors")
    names = [n for n in on_grid if n.split(".")[-2] in LINEARS]
    assert len(names) == 5 * 7
    for name in names:
        codes = packed[name]
        scale = packed[name.replace(".weight", ".weight_scale")].astype(numpy.float32)
        assert codes.dtype == numpy.int8 and scale.shape == (codes.shape[0], 1)
        assert (scale > 0).all() and codes.min() >= -127
        numpy.testing.assert_array_equal(codes * scale, on_grid[name], err_msg=name)
        amax = numpy.abs(masters[name]).max(1, keepdims=True)
        numpy.testing.assert_allclose(scale, amax / 127, rtol=1e-6, err_msg=name)
        distance = numpy.abs(masters[name] - on_grid[name]) / scale
        assert distance.max() < 0.5001, name


def test_no_step_at_all_writes_the_quantized_source(ptq_run):
    result = json.loads((ptq_run / "result.json").read_text())
    assert result["steps"] == 0 and result["quantized_linears"] == 35
    assert 1 < perplexity(result, "ptq") / perplexity(result, "source") < 1.05
    assert all(export["verified"] for export in result["exports"].values())


def test_ptq_codes_are_those_of_numpy(ptq_run, stories):
    packed = load_file(ptq_run / "export" / "compressed-tensors" / "model.safetensors")
    source = load_file(stories / "model.safetensors")
    for name in (n for n in source if n.split(".")[-2] in LINEARS):
        weight = source[name].astype(numpy.float32)
        scale = numpy.abs(weight).max(1, keepdims=True) / numpy.float32(127)
        codes = numpy.clip(numpy.rint(weight * (numpy.float32(1) / scale)), -127, 127)
        numpy.testing.assert_array_equal(packed[name], codes.astype(numpy.int8), err_msg=name)


@pytest.mark.parametrize("kind", ["short_run", "ptq_run"])
def test_finished_run_started_again_changes_nothing(commands, request, kind):
    run = request.getfixturevalue(kind)
    before = everything_in(run)
    said = commands.said("qat-train", run / "recipe.yaml", "--out", run)
    assert "already complete" in said
    assert everything_in(run) == before


def test_changed_recipe_is_refused(commands, short_run):
    before = everything_in(short_run)
    commands.run("qat-train", short_run / "recipe.yaml", "--out", short_run,
                 "--set", "train.learning_rate=2e-4", expect=2)  # fmt: skip
    assert everything_in(short_run) == before


def test_refusals_end_with_2(commands, data, stories, tmp_path):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(f"model: {stories}\nout: {tmp_path}/out\ntrain: {{stepz: 3}}\n")
    commands.run("qat-train", recipe, expect=2)
    commands.run("qat-train", tmp_path / "missing.yaml", expect=2)
    commands.run("qat-train", STORIES, "--out", tmp_path / "out", "--set", "train.steps=-1", expect=2)
    commands.run("qat-train", STORIES, "--out", tmp_path / "out", "--set", "model=nowhere", expect=2)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    commands.run("qat-eval", tmp_path / "missing", "--text", recipe, "--context", 8, expect=2)
    commands.run("qat-generate", tmp_path / "missing", "--prompt", "a", expect=2)


def test_dry_run_touches_no_file(commands, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shown = commands.said("qat-train", STORIES, "--out", "dry", "--dry-run", cwd=tmp_path)
    assert "memory" in shown.lower()
    assert not list(tmp_path.iterdir())


def test_greedy_continuation_is_the_known_one(commands, stories):
    from tokenizers import Tokenizer

    known = json.loads((stories / "expected_greedy.json").read_text())
    added = len(known["greedy_ids"]) - len(known["prompt_ids"])
    ours = commands.run("qat-generate", stories, "--prompt", known["prompt"], "--max-tokens", added)
    tokenizer = Tokenizer.from_file(str(stories / "tokenizer.json"))
    expected = tokenizer.decode(known["greedy_ids"], skip_special_tokens=True)
    assert ours.rstrip("\n") == expected.rstrip("\n")
