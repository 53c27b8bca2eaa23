"""Checkpoints that are written beside training."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, run_recipe
from ranks_test import ENVIRONMENT, call, mpirun, run_ranks  # noqa: F401
from resume_test import assert_same_run, steps_written
from run_test import metrics


ASYNC = ("--set", "checkpoint.async=true")


@pytest.fixture
def slow_disk():
    """What a command is put behind so that each fsync takes so many seconds longer."""
    probe = ["strace", "-o", "/dev/null", "true"]
    if not shutil.which("strace") or subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("strace is not installed or may not trace here")

    def by(seconds):
        delay = f"inject=fsync:delay_enter={int(seconds * 1e6)}"
        return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", delay]

    return by


def children(pid) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


def test_gives_the_bits_of_a_run_that_waits_for_its_saves(commands, short_run, tmp_path):
    said = commands.said("qat-train", short_run / "recipe.yaml", "--out", tmp_path / "goes_on",
                         "--set", "checkpoint.async=true")  # fmt: skip
    assert "beside training" in said and "checkpoint snapshot" in said
    assert_same_run(short_run, tmp_path / "goes_on")


def test_training_goes_on_and_the_next_save_waits(commands, short_run, slow_disk, tmp_path):
    out = tmp_path / "slow"
    train = [str(commands.path("qat-train")), str(short_run / "recipe.yaml"), "--out", str(out)]
    done = subprocess.run([*slow_disk(0.3), *train, "--set", "checkpoint.every=2", *ASYNC], capture_output=True, text=True,
                          cwd=ROOT, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    saved = re.findall(r"saved \S+/step-(\d+) \(\S+ \S+ in \S+ s( beside training)?", done.stderr)
    assert [int(step) for step, _ in saved] == list(range(2, 25, 2)), "each once"
    # The steps before a save that is due find the one before still on its way.
    waits = re.findall(r"step (\d+): waited (\S+) s for the save of step (\d+)", done.stderr)
    assert waits and all(int(now) == int(before) + 2 for now, _, before in waits)
    assert "raise checkpoint.every" in done.stderr
    assert_same_run(short_run, out)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stop_waits_for_the_save_on_its_way(
    mpirun, commands, short_run, slow_disk, tmp_path, ranks  # noqa: F811
):
    out, recipe = tmp_path / "stopped", short_run / "recipe.yaml"
    train = call(mpirun, commands, ranks, recipe, out, "checkpoint.async=true", "checkpoint.every=40",
                 "train.steps=100000")
    started_by = [*mpirun, str(ranks)]
    command = [*(started_by if ranks > 1 else []), *slow_disk(2), *train[len(started_by) :]]
    with open(tmp_path / "output.txt", "wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output)
    while process.poll() is None and steps_written(out) < 41:
        time.sleep(0.001)
    assert list((out / "checkpoints").glob("step-40.tmp-*")), "it is being written while training goes on"
    # strace does not hand a signal on to what it traces.
    tracer = process.pid if ranks == 1 else children(process.pid)[0]
    os.kill(children(tracer)[0], signal.SIGTERM)
    assert process.wait(120) == 85, (tmp_path / "output.txt").read_text()[-3000:]
    said = (tmp_path / "output.txt").read_text()
    saved = re.findall(r"saved \S+/step-(\d+) ", said)
    reached = steps_written(out)
    assert saved == ["40", str(reached)] and "waited" not in said
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"step-40", f"step-{reached}"}


@pytest.mark.parametrize("sets", [[], ["train.optimizer.state_bits=8"], ["quantize.weights.rounding=lsq"]])
@pytest.mark.parametrize("ranks, stage", [(1, 0), (2, 0), (2, 3)])
def test_the_plan_names_what_the_copies_take(mpirun, commands, short_run, tmp_path, sets, ranks, stage):  # noqa: F811
    """As much as the tensors of a rank's file, which begin on multiples of 64 bytes."""
    out, recipe = tmp_path / "run", short_run / "recipe.yaml"
    said = run_ranks(mpirun, commands, ranks, recipe, out, f"train.zero_stage={stage}", "train.steps=2",
                     "train.warmup_bf16=0", "train.schedule.warmup=0", "train.enable.layers=0", "export=[]",
                     "checkpoint.async=true", *sets)
    (planned,) = re.findall(r"^memory.*checkpoint snapshot ([\d.]+)$", said, re.MULTILINE)
    result = json.loads((out / "result.json").read_text())
    exact = result["memory"]["planned"]["checkpoint snapshot"]
    assert float(planned) == pytest.approx(exact / 1048576, abs=0.06)
    (first,) = (out / "checkpoints" / "step-2").glob("rank-0000-*")
    data = first.read_bytes()
    tensors = json.loads(data[32 : 32 + int.from_bytes(data[16:24], "little")])["tensors"]
    written = len(data) - int.from_bytes(data[24:32], "little")
    assert 0 <= written - exact <= 64 * len(tensors)
