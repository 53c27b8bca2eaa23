"""A run that is stopped, again and again, goes on to the very bits of one that was left alone."""

import os
import random
import signal
import subprocess
import time

import pytest
from conftest import ROOT, run_recipe
from run_test import metrics
from safetensors.numpy import load_file

SAME = ("step", "loss", "cross_entropy", "kl", "lr", "grad_norm", "tokens", "enabled_layers", "skipped")


def assert_same_run(whole, resumed) -> None:
    for name in ("hf", "hf-master", "compressed-tensors"):
        first, second = ((run / "export" / name / "model.safetensors").read_bytes() for run in (whole, resumed))
        assert first == second, name
    first, second = ([{key: m[key] for key in SAME} for m in metrics(run)] for run in (whole, resumed))
    assert first == second


def killed_and_resumed(commands, recipe, folder):
    out = folder / "killed"
    for steps in (3, 9, 15):  # before the first layer joins, between two, after a checkpoint
        process = commands.start("qat-train", recipe, "--out", out, output=folder / "output.txt")
        while process.poll() is None and steps_written(out) < steps:
            time.sleep(0.001)
        process.kill()
        process.wait()
    return run_recipe(commands, recipe, out)


def test_stochastic_rounding_goes_on_with_its_noise(commands, short_run, tmp_path):
    recipe, whole = short_run / "recipe.yaml", tmp_path / "whole"
    run_recipe(commands, recipe, whole, "quantize.weights.rounding=stochastic")
    assert [m["loss"] for m in metrics(whole)] != [m["loss"] for m in metrics(short_run)]
    assert_same_run(whole, killed_and_resumed(commands, whole / "recipe.yaml", tmp_path))


@pytest.fixture(scope="session")
def trained_scales_run(commands, data, short_run, tmp_path_factory):
    """The same steps with scales that are trained (LSQ): they start anew as their layers join."""
    out = tmp_path_factory.mktemp("runs") / "stories-lsq"
    return run_recipe(
        commands, short_run / "recipe.yaml", out, "quantize.weights.rounding=lsq",
        "quantize.weights.scale_lr=0.01",
    )  # fmt: skip


def test_trained_scales_go_on_where_they_were(commands, short_run, trained_scales_run, ptq_run, tmp_path):
    out = killed_and_resumed(commands, trained_scales_run / "recipe.yaml", tmp_path)
    assert_same_run(trained_scales_run, out)
    tensors, untrained = (
        load_file(run / "export" / "compressed-tensors" / "model.safetensors") for run in (out, ptq_run)
    )
    scales = [name for name in tensors if name.endswith("weight_scale")]
    assert scales
    for name in scales:
        change = abs(tensors[name].astype("float64") / untrained[name] - 1)
        assert 0 < change.max() < 0.5, name
        assert (tensors[name] > 0).all()
    # What is served from the file is what was trained.
    text = ROOT / "README.md"
    trained, served = (
        commands.json("qat-eval", model, "--text", text, "--context", 128, "--json")
        for model in (out, out / "export" / "compressed-tensors")
    )
    assert trained["quantization"][0]["weights"].pop("trained_scale")
    assert trained["nll"] == pytest.approx(served["nll"], rel=1e-6)
    assert trained["quantization"] == served["quantization"]


def steps_written(out) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_random_moments(commands, short_run, tmp_path, seed):
    """SIGKILL anywhere: before the first step, while a checkpoint is written, during the export."""
    recipe, out, output = short_run / "recipe.yaml", tmp_path / "killed", tmp_path / "output.txt"
    moments = random.Random(seed)
    start = time.monotonic()
    run_recipe(commands, recipe, tmp_path / "undisturbed")
    longest = time.monotonic() - start
    kills = 0
    while kills < 5:
        process = commands.start("qat-train", recipe, "--out", out, output=output)
        try:
            process.wait(moments.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        assert code in (0, -signal.SIGKILL), output.read_text()[-4000:]
        if code == 0:
            break
        kills += 1
    run_recipe(commands, recipe, out)
    assert_same_run(short_run, out)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(commands, short_run, tmp_path, kind):
    """Ends with 85 after a checkpoint of the step it had reached, wherever checkpoints are due."""
    recipe, output = short_run / "recipe.yaml", tmp_path / "output.txt"
    for attempt in range(10):  # a machine that keeps this process waiting may miss the steps
        out = tmp_path / f"stopped{attempt}"
        process = commands.start("qat-train", recipe, "--out", out, output=output)
        while process.poll() is None and steps_written(out) < 3:
            time.sleep(0.001)
        if process.poll() is None:
            os.kill(process.pid, kind)
        if process.wait() != 0:
            break
    assert process.returncode == 85, output.read_text()[-4000:]
    done = steps_written(out)
    assert 3 <= done < 24
    assert (out / "checkpoints" / f"step-{done}").is_dir()
    assert not (out / "result.json").exists()
    run_recipe(commands, recipe, out)
    assert_same_run(short_run, out)
