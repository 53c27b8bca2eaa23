"""scripts/slurm/train.sbatch under a real Slurm: what ends an attempt does not end the run. Each test
is named by the number of its fault."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT
from faults_test import RECIPE
from resume_test import steps_written
from safetensors.numpy import load_file

BATCH = ROOT / "scripts" / "slurm" / "train.sbatch"
LONGEST = 600  # seconds a job may take: there for what hangs


# The command, but so slow after its first save that the test comes in between; SLOW attempts long.
SLOWLY = """#!/bin/bash
if ((${{SLURM_RESTART_COUNT:-0}} < ${{SLOW:-1}})); then
  (
    trap "" USR1 TERM
    until ls "${{1%/*}}"/run/checkpoints/step-*/manifest.json; do sleep 0.05; done
    while kill -STOP $$; do sleep 0.95; kill -CONT $$; sleep 0.05; done
  ) >/dev/null 2>&1 &
fi
exec {command} "$@"
"""


class Cluster:
    """A Slurm of two nodes on this machine, and a folder to submit from."""

    def __init__(self, tool: Path, environment: dict, folder: Path, command: Path):
        self.tool, self.folder = tool, folder
        slowly = folder / "qat-train-slowly"
        slowly.write_text(SLOWLY.format(command=command))
        slowly.chmod(0o755)
        self.environment = {**environment, "QAT_TRAIN": str(slowly)}

    def call(self, *arguments, **variables) -> str:
        done = subprocess.run(
            list(map(str, arguments)), cwd=self.folder, env={**self.environment, **variables},
            capture_output=True, text=True, timeout=60)  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments, options=(), **variables) -> str:
        return self.call("sbatch", "--parsable", *options, BATCH, *arguments, **variables).strip()

    def state(self, job) -> str:
        return self.call("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()

    def wait(self, job, *states) -> str:
        """Until the job is in one of the states."""
        self.until(lambda: self.state(job) in states, f"job {job} to be {states}", job)
        return self.state(job)

    def until(self, holds, what, job):
        end = time.monotonic() + LONGEST
        while not holds():
            assert time.monotonic() < end, f"waited for {what}; {self.state(job)}:\n{self.said(job)[-6000:]}"
            time.sleep(0.1)

    def said(self, job) -> str:
        """What the script and all attempts of the job wrote."""
        files = [self.folder / f"slurm-{job}.out", *sorted(self.folder.glob(f"slurm-logs/{job}-*"))]
        return "\n".join(f"== {f.name}\n{f.read_text()}" for f in files if f.exists())

    def attempts(self, job) -> list:
        return sorted(self.folder.glob(f"slurm-logs/{job}-attempt-*.log"))

    def until_saved(self, job):
        self.until(lambda: any("\nsaved " in f.read_text() for f in self.attempts(job)), "a save", job)

    def exit_code(self, job) -> int:
        shown = self.call("scontrol", "show", "job", job)
        return int(re.search(r" ExitCode=(\d+):", shown)[1])


@pytest.fixture(scope="module")
def cluster(commands):
    folder = os.environ.get("QAT_TEST_SLURM")
    if not folder:
        pytest.skip("QAT_TEST_SLURM is not set")
    tool = Path(folder) / "local-slurm"
    if subprocess.run([tool, "check"], capture_output=True).returncode != 0:
        pytest.skip(f"no Slurm here: {tool} install")
    place = Path(tempfile.mkdtemp(prefix="qat-slurm-", dir="/tmp"))
    try:
        started = subprocess.run(
            [tool, "start", "--dir", place / "cluster", "--nodes", "2"], check=True,
            capture_output=True, text=True).stdout  # fmt: skip
        # What a run of this test itself inherited from a job would lead the script astray.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMIX_"))}
        for line in started.splitlines():
            pairs = line.removeprefix("export ").split()
            environment.update(pair.split("=", 1) for pair in pairs)
        yield Cluster(tool, environment, place, commands.path("qat-train"))
    finally:
        subprocess.run([tool, "stop", "--dir", place / "cluster"], capture_output=True)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def write_recipe(stories, data, tmp_path_factory):
    """A recipe of 300 steps of its own, a second or two of work, and where it writes."""

    def write(name):
        folder = tmp_path_factory.mktemp(name)
        recipe = folder / "recipe.yaml"
        text = RECIPE.format(stories=stories, data=data, out=folder / "run", steps=STEPS)
        recipe.write_text(text + "export: [hf-master]\nevaluate: {metrics: []}\n")
        return recipe, folder / "run"

    return write


STEPS = 300


@pytest.fixture(scope="module")
def undisturbed(commands, write_recipe):
    recipe, out = write_recipe("undisturbed")
    commands.run("qat-train", recipe)
    return weights(out)


@pytest.fixture(scope="module")
def undisturbed_pair(cluster, write_recipe):
    """The same on two ranks, which add up in another order."""
    recipe, out = write_recipe("pair")
    job = cluster.submit(recipe, options=["-n2"], SLOW="0")
    cluster.wait(job, "COMPLETED")
    assert "2 ranks" in cluster.said(job)
    return weights(out)


def weights(out: Path) -> dict:
    return {name: t.tobytes() for name, t in load_file(out / "export/hf-master/model.safetensors").items()}


def assert_whole(cluster, job, out, undisturbed):
    """It went on, left no step out, wrote none twice, and has the weights of an undisturbed run."""
    later = cluster.attempts(job)[1:]
    assert any("resuming from" in log.read_text() for log in later), cluster.said(job)[-6000:]
    assert steps_written(out) == STEPS
    assert weights(out) == undisturbed


def test_fault_A7_the_time_limit_is_survived(cluster, write_recipe, undisturbed):
    """Slurm's own signal, which may come up to a minute early."""
    recipe, out = write_recipe("limit")
    job = cluster.submit(recipe, options=["-n1", "-t1", "--signal=B:USR1@55"])
    cluster.wait(job, "COMPLETED")
    assert_whole(cluster, job, out, undisturbed)
    assert "stopped early" in cluster.said(job)


def test_fault_A3_A8_two_ranks_survive_a_signal_and_a_requeue(cluster, write_recipe, undisturbed_pair):
    recipe, out = write_recipe("requeue")
    job = cluster.submit(recipe, options=["-n2"], SLOW="2")
    cluster.until_saved(job)
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    cluster.until(lambda: len(cluster.attempts(job)) == 2, "the second attempt", job)
    cluster.until(lambda: "resuming from" in cluster.attempts(job)[1].read_text(), "it to go on", job)
    cluster.call("scontrol", "requeue", job)
    cluster.wait(job, "COMPLETED")
    assert_whole(cluster, job, out, undisturbed_pair)


def test_fault_A9_a_preemption_is_survived(cluster, write_recipe, undisturbed):
    recipe, out = write_recipe("preempted")
    job = cluster.submit(recipe, options=["-n1", "--exclusive", "--nodelist=n1"])
    cluster.until_saved(job)
    cluster.call("sbatch", "--partition=high", "--exclusive", "--nodelist=n1", "--wrap=true")
    cluster.wait(job, "COMPLETED")
    assert_whole(cluster, job, out, undisturbed)


def test_fault_A12_the_script_gives_up_where_nothing_is_gained(cluster, tmp_path):
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\necho started\nkill -9 $$\n")
    dying.chmod(0o755)
    job = cluster.submit("any.yaml", options=["-n1"], QAT_TRAIN=str(dying), QAT_SLURM_TRIES="2")
    cluster.wait(job, "FAILED")
    assert len(cluster.attempts(job)) == 2
    assert cluster.exit_code(job) == 137
    assert "2 attempts in a row without a new checkpoint: not requeued" in cluster.said(job)


def test_what_was_cancelled_stays_so(cluster, write_recipe):
    recipe, out = write_recipe("cancelled")
    job = cluster.submit(recipe, options=["-n1"])
    cluster.until_saved(job)
    cluster.call("scancel", job)
    cluster.wait(job, "CANCELLED")
    time.sleep(8)  # as long as a requeued job waits
    assert cluster.state(job) == "CANCELLED"
    assert len(cluster.attempts(job)) == 1


def test_refusals_are_not_tried_again(cluster, write_recipe):
    recipe, out = write_recipe("array")
    array = cluster.submit(
        recipe, "missing.yaml", "--", "--set", "train.steps=20", options=["-n1", "--array=0-1"])  # fmt: skip
    unsplit = cluster.submit(recipe, recipe, options=["-n1"])
    cluster.wait(f"{array}_0", "COMPLETED")
    cluster.wait(f"{array}_1", "FAILED")
    assert steps_written(out) == 20
    assert cluster.exit_code(f"{array}_1") == 2
    assert "which another attempt would not change" in cluster.said(f"{array}_1")
    assert [f.name for f in cluster.attempts(f"{array}_1")] == [f"{array}_1-attempt-0.log"]
    cluster.wait(unsplit, "FAILED")
    assert "2 recipes need an array: sbatch --array=0-1" in cluster.said(unsplit)


def test_fault_A11_a_node_that_dies_is_survived(cluster, write_recipe, undisturbed):
    """Last, as its node stays away. Slurm takes half a minute to notice."""
    recipe, out = write_recipe("node")
    job = cluster.submit(recipe, options=["-n1"])
    cluster.until_saved(job)
    node = cluster.call("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    cluster.call(cluster.tool, "kill-node", node, "--dir", cluster.folder / "cluster")
    cluster.wait(job, "COMPLETED")
    assert_whole(cluster, job, out, undisturbed)
