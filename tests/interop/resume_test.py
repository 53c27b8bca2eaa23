"""A run that is stopped, again and again, goes on to the very bits of one that was left alone."""

import os
import random
import signal
import subprocess
import time

import pytest
from conftest import run_recipe
from run_test import metrics
from safetensors.numpy import load_file

SAME = ("step", "loss", "cross_entropy", "kl", "lr", "grad_norm", "tokens", "enabled_layers", "skipped")


def assert_same_run(whole, resumed) -> None:
    for name in ("hf", "hf-master", "compressed-tensors"):
        first, second = (load_file(run / "export" / name / "model.safetensors") for run in (whole, resumed))
        assert first.keys() == second.keys()
        for tensor in first:
            assert first[tensor].tobytes() == second[tensor].tobytes(), f"{name}: {tensor}"
    first, second = ([{key: m[key] for key in SAME} for m in metrics(run)] for run in (whole, resumed))
    assert first == second


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
