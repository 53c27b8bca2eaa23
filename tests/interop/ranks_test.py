"""Several ranks under mpirun: the same training as one process, whatever is split over them, killed
and gone on with on any number of them."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT
from resume_test import SAME, steps_written
from run_test import metrics
from safetensors.numpy import load_file

ENVIRONMENT = os.environ | {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",  # containers forbid it, loudly
}


@pytest.fixture(scope="session")
def mpirun() -> list[str]:
    if not shutil.which("mpirun"):
        pytest.skip("mpirun is not installed; scripts/setup brings it")
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n"]


def call(mpirun, commands, ranks, recipe, out, *sets) -> list[str]:
    arguments = [argument for key_value in sets for argument in ("--set", key_value)]
    train = str(commands.path("qat-train"))
    return [*mpirun, str(ranks), train, str(recipe), "--out", str(out), *arguments]


def run_ranks(mpirun, commands, ranks, recipe, out, *sets, expect=0) -> str:
    done = subprocess.run(
        call(mpirun, commands, ranks, recipe, out, *sets),
        capture_output=True, text=True, timeout=1800, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == expect, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def steps_of(run) -> list[dict]:
    return [{key: m[key] for key in SAME} for m in metrics(run)]


def assert_same_bits(first, second) -> None:
    assert steps_of(first) == steps_of(second)
    for name in ("hf-master", "compressed-tensors"):
        one, other = (load_file(run / "export" / name / "model.safetensors") for run in (first, second))
        for tensor in one:
            assert one[tensor].tobytes() == other[tensor].tobytes(), f"{name}: {tensor}"


def assert_close(alone, together) -> None:
    """The same samples in the same order, by the cross-entropy of each step. Sums are taken in
    another order: a code falls to the other side now and then."""
    for one, other in zip(metrics(alone), metrics(together), strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], rel=5e-3), one["step"]
    first, second = (json.loads((run / "result.json").read_text())["evaluations"] for run in (alone, together))
    for stage in ("source", "ptq", "qat"):
        for path, before in first[stage].items():
            within = 5e-3 if stage == "qat" else 0
            assert second[stage][path]["perplexity"] == pytest.approx(before["perplexity"], rel=within)


@pytest.fixture(scope="session")
def two_ranks(mpirun, commands, short_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "two"
    said = run_ranks(mpirun, commands, 2, short_run / "recipe.yaml", out)
    assert "2 ranks" in said
    assert said.count("recipe ") == 1, "every rank tells the same"
    return out


def test_two_ranks_train_as_one_process(short_run, two_ranks):
    assert_close(short_run, two_ranks)


def test_started_again_there_is_nothing_to_do(mpirun, commands, short_run, two_ranks):
    said = run_ranks(mpirun, commands, 2, short_run / "recipe.yaml", two_ranks)
    assert "already complete" in said


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_give_the_same_bits(mpirun, commands, short_run, two_ranks, tmp_path, stage):
    out = tmp_path / f"zero{stage}"
    run_ranks(mpirun, commands, 2, short_run / "recipe.yaml", out, f"train.zero_stage={stage}")
    assert_same_bits(two_ranks, out)
    world = {path.name for path in (out / "checkpoints").glob("step-*/rank-*")}
    assert world == {"rank-0000-of-0002.bin", "rank-0001-of-0002.bin"}


def start_and_kill(mpirun, commands, ranks, recipe, out, steps, *sets) -> int:
    """Kills one rank with SIGKILL after so many steps; mpirun has to end the others."""
    process = subprocess.Popen(
        call(mpirun, commands, ranks, recipe, out, *sets),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and steps_written(out) < steps:
        time.sleep(0.001)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    for child in children.stdout.split()[-1:]:
        os.kill(int(child), signal.SIGKILL)
    return process.wait(60)


def test_fault_C1_a_killed_rank_ends_the_run_which_goes_on(mpirun, commands, short_run, two_ranks, tmp_path):
    out = tmp_path / "killed"
    for steps in (5, 13):
        start_and_kill(mpirun, commands, 2, short_run / "recipe.yaml", out, steps, "train.zero_stage=2")
    run_ranks(mpirun, commands, 2, short_run / "recipe.yaml", out, "train.zero_stage=2")
    assert_same_bits(two_ranks, out)


@pytest.mark.parametrize("worlds", [(1, 2), (2, 1), (4, 2), (2, 4)])
def test_fault_C8_goes_on_with_another_number_of_ranks(
    mpirun, commands, short_run, tmp_path, worlds
):
    """The same samples in the same order, whatever wrote the checkpoint."""
    out = tmp_path / "resized"
    first, second = worlds
    stage = f"train.zero_stage={3 if first > second else 1}"
    start_and_kill(mpirun, commands, first, short_run / "recipe.yaml", out, 11, stage)
    said = run_ranks(mpirun, commands, second, short_run / "recipe.yaml", out)
    assert "resuming from" in said or steps_written(out) == 24
    assert_close(short_run, out)


def test_fault_C8_a_batch_that_does_not_divide_is_refused(mpirun, commands, short_run, tmp_path):
    said = run_ranks(mpirun, commands, 3, short_run / "recipe.yaml", tmp_path / "three", expect=2)
    assert "train.batch" in said and "3 ranks" in said


def test_asked_to_stop_all_ranks_save_and_leave(mpirun, commands, short_run, two_ranks, tmp_path):
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        call(mpirun, commands, 2, short_run / "recipe.yaml", out),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and steps_written(out) < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 85
    run_ranks(mpirun, commands, 2, short_run / "recipe.yaml", out)
    assert_same_bits(two_ranks, out)


ADAPTER = """
model: ${QAT_TEST_DATA}/stories260k
out: unused
data: {train: ["${QAT_TEST_DATA}/text/tinystories_train.jsonl"], sequence: 128}
quantize: w4a8
train: {steps: 6, batch: 4, learning_rate: 1.0e-3}
adapter: {kind: KIND, rank: 64, alpha: 64, base: nf4, target_modules: [q_proj, gate_proj, down_proj]}
export: [hf]
"""


SOLVED = ADAPTER.replace("adapter: {kind: KIND", "#").replace(
    "quantize: w4a8", "quantize: {preset: w4a8, solver: SOLVER}")


@pytest.mark.parametrize("solver", ["gptq", "awq"])
def test_matrices_on_solved_grids_are_split_too(mpirun, commands, data, tmp_path, solver):
    """Their scales are the same on every rank; each takes those of its rows."""
    recipe = tmp_path / "solved.yaml"
    recipe.write_text(SOLVED.replace("SOLVER", solver))
    runs = [tmp_path / f"zero{stage}" for stage in (0, 1, 3)]
    for run, stage in zip(runs, (0, 1, 3), strict=True):
        run_ranks(mpirun, commands, 2, recipe, run, f"train.zero_stage={stage}")
        assert steps_of(run) == steps_of(runs[0])


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_factors_are_split_as_any_matrix(mpirun, commands, data, tmp_path, kind):
    """With ranks so high that the merged matrix's gradient is what accumulates."""
    recipe = tmp_path / "adapter.yaml"
    recipe.write_text(ADAPTER.replace("KIND", kind))
    runs = [tmp_path / f"zero{stage}" for stage in (0, 1, 3)]
    for run, stage in zip(runs, (0, 1, 3), strict=True):
        run_ranks(mpirun, commands, 2, recipe, run, f"train.zero_stage={stage}")
        assert steps_of(run) == steps_of(runs[0])
        files = [r / "export" / "hf" / "model.safetensors" for r in (run, runs[0])]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_fault_C2_a_rank_that_hangs_is_named(mpirun, commands, short_run, tmp_path):
    out = tmp_path / "hung"
    process = subprocess.Popen(
        call(mpirun, commands, 2, short_run / "recipe.yaml", out, "train.watchdog=2", "train.steps=1000000"),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while process.poll() is None and steps_written(out) < 3:
        time.sleep(0.001)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(ranks.stdout.split()[1]), signal.SIGSTOP)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 6, said[-3000:]
    line = only_error(said)
    assert "rank 1 hangs: no progress for" in line and "its process does not run" in line
    assert "run the same command again" in line


def only_error(said) -> str:
    lines = [line for line in said.splitlines() if line.startswith("qat-train: error: ")]
    assert len(lines) == 1, said[-3000:]
    return lines[0]


def of_two_programs(mpirun, commands, first, second) -> subprocess.CompletedProcess:
    """mpirun with other arguments for rank 1 than for rank 0."""
    train = str(commands.path("qat-train"))
    both = [*mpirun, "1", train, *map(str, first), ":", "-n", "1", train, *map(str, second)]
    return subprocess.run(both, capture_output=True, text=True, timeout=300, cwd=ROOT, env=ENVIRONMENT)


def test_fault_C4_a_rank_that_fails_says_so_and_all_leave(mpirun, commands, short_run, tmp_path):
    out = ["--out", tmp_path / "failed"]
    done = of_two_programs(mpirun, commands, [short_run / "recipe.yaml", *out], ["missing.yaml", *out])
    assert done.returncode == 2, done.stderr
    assert only_error(done.stderr).startswith("qat-train: error: rank 1: missing.yaml:")


@pytest.mark.parametrize("arguments", [["missing.yaml"], ["--no-such-option"]])
def test_fault_C4_what_all_ranks_refuse_is_said_once(mpirun, commands, arguments):
    done = of_two_programs(mpirun, commands, arguments, arguments)
    assert done.returncode == 2, done.stderr
    assert "rank" not in only_error(done.stderr)


def test_fault_C6_ranks_with_different_recipes_are_refused(mpirun, commands, short_run, tmp_path):
    recipe = [short_run / "recipe.yaml", "--out", tmp_path / "differ"]
    done = of_two_programs(mpirun, commands, recipe, [*recipe, "--set", "train.learning_rate=0.5"])
    assert done.returncode == 2, done.stderr
    line = only_error(done.stderr)
    assert "the recipe's hash" in line and "rank 1" in line


def test_fault_C9_fewer_samples_than_ranks(mpirun, commands, short_run, tmp_path):
    """Some of the four ranks take the same one as others, an epoch later."""
    text = tmp_path / "short.jsonl"
    text.write_text(json.dumps({"text": "Once upon a time there was a girl who had a red ball. " * 2}) + "\n")
    out = tmp_path / "run"
    said = run_ranks(
        mpirun, commands, 4, short_run / "recipe.yaml", out, f"data.train=[{text}]", "data.sequence=32",
        "train.batch=4", "train.steps=3", "train.warmup_bf16=0", "train.enable.every=1", "train.enable.layers=5",
        "train.schedule.warmup=0", "export=[hf]",
    )  # fmt: skip
    sequences = int(re.search(r", (\d+) sequences of 32 an epoch", said)[1])
    assert sequences < 4
    assert all(0 < m["cross_entropy"] < 10 for m in metrics(out)) and len(metrics(out)) == 3
