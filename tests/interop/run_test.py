"""A short real run: what it leaves behind, and that a killed one goes on to the very same result."""

import json
import os
import signal
import subprocess
import time

import numpy
import pytest
from safetensors.numpy import load_file

from conftest import ROOT, run_recipe

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in open(run / "metrics.jsonl", encoding="utf-8")]


def test_metrics_hold_each_step_once(short_run):
    steps = metrics(short_run)
    assert [m["step"] for m in steps] == list(range(steps[0]["step"], steps[0]["step"] + 24))
    assert all(numpy.isfinite(m["loss"]) for m in steps)
    enabled = [m["enabled_layers"] for m in steps]
    enabled = [len(e) if isinstance(e, list) else e for e in enabled]
    assert enabled[0] == 0 and enabled[-1] == 5 and enabled == sorted(enabled)


def test_result_has_the_three_perplexities(short_run):
    """8 bits cost this model little, and training does not make it worse."""
    result = json.loads((short_run / "result.json").read_text())
    found = {
        kind: next(iter(result["evaluations"][kind].values()))["perplexity"]
        for kind in ("source", "ptq", "qat")
    }
    assert 4 < found["source"] < 7, found
    assert found["ptq"] == pytest.approx(found["source"], rel=0.05), found
    assert found["qat"] == pytest.approx(found["source"], rel=0.05), found


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


def test_ptq_codes_are_those_of_numpy(ptq_run, stories):
    packed = load_file(ptq_run / "export" / "compressed-tensors" / "model.safetensors")
    source = load_file(stories / "model.safetensors")
    for name in (n for n in source if n.split(".")[-2] in LINEARS):
        weight = source[name].astype(numpy.float32)
        scale = numpy.abs(weight).max(1, keepdims=True) / numpy.float32(127)
        codes = numpy.clip(numpy.rint(weight * (numpy.float32(1) / scale)), -127, 127)
        numpy.testing.assert_array_equal(packed[name], codes.astype(numpy.int8), err_msg=name)


def test_run_again_changes_nothing(commands, short_run):
    before = {p: p.stat().st_mtime_ns for p in short_run.rglob("*") if p.is_file()}
    commands.run("qat-train", short_run / "recipe.yaml", "--out", short_run)
    assert {p: p.stat().st_mtime_ns for p in short_run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_run_goes_on_bit_for_bit(commands, data, short_run, tmp_path, kind):
    out = tmp_path / "stopped"
    recipe = short_run / "recipe.yaml"
    program = str(commands.path("qat-train"))
    call = [program, str(recipe), "--out", str(out)]
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.time() + 400
    while process.poll() is None and time.time() < deadline:
        # Stop it somewhere after the first checkpoint, in the layer-by-layer phase.
        lines = (out / "metrics.jsonl").read_text().count("\n") if out.is_dir() and (
            out / "metrics.jsonl").exists() else 0  # fmt: skip
        if lines >= 11:
            os.kill(process.pid, kind)
            break
        time.sleep(0.002)
    _, errors = process.communicate(timeout=400)
    if process.returncode == 0:
        pytest.fail("the run ended before it could be stopped")
    expected = 85 if kind == signal.SIGTERM else -signal.SIGKILL
    assert process.returncode == expected, errors.decode()
    run_recipe(commands, recipe, out)
    for name in ("hf/model.safetensors", "hf-master/model.safetensors"):
        whole, resumed = (load_file(run / "export" / name) for run in (short_run, out))
        assert whole.keys() == resumed.keys()
        for tensor in whole:
            assert whole[tensor].tobytes() == resumed[tensor].tobytes(), f"{name}: {tensor}"
    compared = ("step", "loss", "kl", "lr", "grad_norm", "enabled_layers")
    first, second = (
        [{k: m.get(k) for k in compared} for m in metrics(run)] for run in (short_run, out)
    )
    assert first == second


def test_refusals_end_with_2(commands, data, stories, tmp_path):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(f"model: {stories}\nout: {tmp_path}/out\ntrain: {{stepz: 3}}\n")
    commands.run("qat-train", recipe, expect=2)
    assert not (tmp_path / "out").exists()
    commands.run("qat-eval", tmp_path / "missing", "--text", recipe, "--context", 8, expect=2)


def test_dry_run_touches_no_file(commands, data, tmp_path):
    out = tmp_path / "dry"
    recipe = ROOT / "recipes" / "stories-w8a8.yaml"
    shown = commands.run("qat-train", recipe, "--out", out, "--dry-run")
    assert "memory" in shown.lower() and not out.exists()
