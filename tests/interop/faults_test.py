"""Faults through the trainer; each test is named by the number of its fault."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT
from resume_test import steps_written
from run_test import metrics

RECIPE = """
model: {stories}
out: {out}
data: {{train: ["{data}/text/tinystories_train.jsonl"], sequence: 64, cache: off}}
quantize: w8a8
train: {{steps: {steps}, batch: 2, learning_rate: 1.0e-4}}
checkpoint: {{every: 20}}
"""
ENDLESS = 1_000_000


@pytest.fixture
def recipe(stories, data, tmp_path):
    def write(steps=ENDLESS):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(stories=stories, data=data, out=tmp_path / "run", steps=steps))
        return path

    return write


def settings(*pairs):
    return [part for pair in pairs for part in ("--set", pair)]


def wait_for(process, found, what):
    """Polls until found() is true; the process must not end before."""
    while not found():
        assert process.poll() is None, f"ended with {process.returncode} before {what}"
        time.sleep(0.01)


def test_fault_D2_a_run_that_diverges_ends_with_4(commands, recipe, tmp_path):
    """Weight decay times learning rate is 100: every step multiplies the weights by -99."""
    done = commands.complete(
        "qat-train", recipe(), *settings("train.learning_rate=10", "train.optimizer.weight_decay=10",
        "train.schedule.kind=constant", "train.max_bad_steps=4", "train.clip_grad_norm=0", "checkpoint.every=1"),
        expect=4, cwd=ROOT)  # fmt: skip
    error = done.stderr.strip().splitlines()[-1]
    assert "4 non-finite steps in a row" in error
    last = error.rsplit("the last finite checkpoint is ", 1)[1]
    assert os.path.isdir(last)
    assert "first made by" in done.stderr
    steps = metrics(tmp_path / "run")
    assert [m["skipped"] for m in steps[-3:]] == [1, 1, 1]
    # None was saved in the row: the last checkpoint is from before it.
    first_bad = next(m["step"] for m in steps if m["skipped"])
    assert int(last.rsplit("-", 1)[1]) < first_bad


@pytest.mark.parametrize("by", ["recipe", "slurm"])
def test_fault_A13_no_step_is_begun_that_could_not_be_saved(commands, recipe, tmp_path, by):
    limit = settings("checkpoint.time_limit=0.15") if by == "recipe" else []
    environment = {**os.environ, "SLURM_JOB_END_TIME": str(int(time.time()) + 10)}
    if by == "recipe":
        del environment["SLURM_JOB_END_TIME"]
    call = [commands.path("qat-train"), recipe(), *limit]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 85, done.stderr[-3000:]
    assert "stopped by the time limit" in done.stderr
    assert "a save" in done.stderr
    run = tmp_path / "run"
    if reached := steps_written(run):
        assert (run / "checkpoints" / f"step-{reached}").is_dir()


@pytest.fixture
def small_disk(commands, recipe, tmp_path):
    """Starts qat-train with a file system of 12 MiB of its own as the output directory (three
    checkpoints take 10), which the test sees through /proc."""
    unshare = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "--propagation", "private"]
    probe = [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    run = tmp_path / "run"
    run.mkdir()
    started = []

    def start(*sets):
        script = 'mount -t tmpfs -o size=12m tmpfs "$1" && shift && exec "$@"'
        call = [*unshare, "bash", "-c", script, "bash", run, commands.path("qat-train"), recipe(), *settings(*sets)]
        output = open(tmp_path / "output.txt", "ab")
        process = subprocess.Popen(list(map(str, call)), cwd=ROOT, stdout=output, stderr=output)
        started.append(process)
        seen = f"/proc/{process.pid}/root{run}"
        wait_for(process, lambda: os.path.exists(f"{seen}/checkpoints/step-20"), "the first checkpoint")
        return process, seen, lambda: (tmp_path / "output.txt").read_text()

    yield start
    for process in started:
        process.kill()
        process.wait()


def fill(path):
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_fault_B1_a_disk_that_fills_is_survived(small_disk):
    process, seen, said = small_disk("checkpoint.max_failed_saves=1000000")
    fill(f"{seen}/filler")
    wait_for(process, lambda: said().count("NOT SAVED") >= 2, "two failed saves")
    assert "No space left on device" in said()
    os.unlink(f"{seen}/filler")
    before = len(said())
    wait_for(process, lambda: "saved " in said()[before:].replace("NOT SAVED", ""), "a save that works")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 85, said()[-3000:]


def test_fault_B1_too_many_failed_saves_end_with_3(small_disk):
    process, seen, said = small_disk("checkpoint.max_failed_saves=3")
    fill(f"{seen}/filler")
    assert process.wait() == 3, said()[-3000:]
    error = said().strip().splitlines()[-1]
    assert "3 saves in a row failed" in error and "No space left on device" in error
    assert "the last whole checkpoint is" in error and "checkpoints/step-" in error


def test_fault_E5_a_token_that_the_embedding_has_not(commands, stories, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    (model / "tokenizer.model").unlink()
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["ZQZQ"] = 4_000_000
    tokenizer["added_tokens"].append({"id": 4_000_000, "content": "ZQZQ", "normalized": False, "special": True})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    text = tmp_path / "text.txt"
    text.write_text("Once upon a ZQZQ")
    for call in (["qat-generate", model, "--prompt", text.read_text()], ["qat-eval", model, "--text", text]):
        done = commands.complete(*call, expect=2, cwd=ROOT)
        assert "4000000" in done.stderr and "vocabulary has 512" in done.stderr


@pytest.mark.parametrize("kind", ["closed", "no reader", "full"])
def test_fault_E10_nobody_reads_what_it_says(commands, recipe, tmp_path, kind):
    """The run ends as ever, and no line of the log lands in a file that took the descriptor's place."""
    call = [str(commands.path("qat-train")), str(recipe(25))]
    if kind == "closed":
        call = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *call]
        done = subprocess.run(call, cwd=ROOT)
    elif kind == "full":
        with open("/dev/full", "wb") as full:
            done = subprocess.run(call, cwd=ROOT, stdout=full, stderr=full)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(call, cwd=ROOT, stdout=writer, stderr=writer)
        os.close(writer)
    assert done.returncode == 0
    run = tmp_path / "run"
    assert [m["step"] for m in metrics(run)] == list(range(1, 26))
    assert json.loads((run / "result.json").read_text())["complete"] is True
    for path in (run / "recipe.yaml", run / "model" / "config.json", run / "run.lock"):
        assert not path.exists() or "perplexity" not in path.read_text()


@pytest.mark.parametrize("threads", ["0", "-1", "1000000", "", "many", "1"])
def test_fault_E11_any_number_of_threads(commands, stories, data, threads):
    text = data / "text" / "tinystories_valid.jsonl"
    call = [commands.path("qat-eval"), stories, "--text", text, "--context", "64", "--max-windows", "8", "--json"]
    results = [
        json.loads(subprocess.run(list(map(str, call)), cwd=ROOT, env={**os.environ, **more}, capture_output=True,
                                  check=True, text=True).stdout)
        for more in ({}, {"OMP_NUM_THREADS": threads})
    ]  # fmt: skip
    assert results[0] == results[1]


@pytest.fixture
def evaluated(commands, stories, data):
    """Evaluates a little text as a process that is started in another way; what it ended with."""
    text = data / "text" / "tinystories_valid.jsonl"
    call = [commands.path("qat-eval"), stories, "--text", text, "--context", "64", "--max-windows", "8", "--json"]

    def run(prefix=(), **options):
        options = {"cwd": ROOT, "capture_output": True, "text": True, **options}
        return subprocess.run([*prefix, *map(str, call)], timeout=600, **options)

    return run


@pytest.mark.parametrize("kind", ["locale", "TMPDIR", "directory"])
def test_fault_E10_started_from_elsewhere(evaluated, tmp_path, kind):
    options = {
        "locale": {"env": {**os.environ, "LC_ALL": "de_DE.UTF-8"}},
        "TMPDIR": {"env": {**os.environ, "TMPDIR": str(tmp_path / "none")}},
        "directory": {"cwd": tmp_path},
    }[kind]
    done = evaluated(**options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == evaluated().stdout


@pytest.mark.parametrize("kind", ["one core", "no GPU", "no such GPU", "no /proc", "avx2", "scalar"])
def test_fault_E11_another_machine(evaluated, kind):
    """Other instructions sum in another order, so the last digits may differ there."""
    prefix, options = (), {}
    if kind == "one core":
        core = min(os.sched_getaffinity(0))
        options["preexec_fn"] = lambda: os.sched_setaffinity(0, {core})
    elif kind == "no /proc":
        prefix = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "bash", "-c",
                  'mount -t tmpfs tmpfs /proc && exec "$@"', "bash"]  # fmt: skip
        if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
            pytest.skip("mounting is not allowed here")
    else:
        options["env"] = {**os.environ, **{
            "no GPU": {"CUDA_VISIBLE_DEVICES": ""}, "no such GPU": {"CUDA_VISIBLE_DEVICES": "7"},
            "avx2": {"QAT_ISA": "avx2"}, "scalar": {"QAT_ISA": "scalar"}}[kind]}  # fmt: skip
    done = evaluated(prefix, **options)
    assert done.returncode == 0, done.stderr
    here, there = json.loads(evaluated().stdout), json.loads(done.stdout)
    if "QAT_ISA" not in (options.get("env") or {}):
        assert there == here
    assert there["perplexity"] == pytest.approx(here["perplexity"], rel=1e-4)


def test_fault_E12_out_of_memory_is_one_line(commands, recipe, tmp_path):
    """Below the first limits the libraries are not even loaded; above the last the run fits."""
    refused = 0
    for limit in range(50_000, 200_000, 10_000):
        call = [commands.path("qat-train"), recipe(1), "--set", "threads=1"]
        done = subprocess.run(["bash", "-c", f'ulimit -v {limit}; exec "$@"', "bash", *map(str, call)],
                              cwd=ROOT, capture_output=True, text=True)  # fmt: skip
        if done.returncode == 127 or "libgomp" in done.stderr:
            continue
        assert done.returncode in (0, 2), (limit, done.stderr)
        if done.returncode == 0:
            break
        refused += 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("qat-train: error: ") and ("memory" in last), (limit, done.stderr)
    assert refused > 0
    assert done.returncode == 0


def test_fault_E12_the_need_is_said_before_anything_is_loaded(commands, recipe):
    said = commands.complete("qat-train", recipe(), "--dry-run", expect=0, cwd=ROOT)
    assert re.search(r"memory: \d+ MiB", said.stderr + said.stdout)


GARBLED = "\x01\x7f zq~|^ \u00b6\u00a7 \x02%$#@ \u00bf\u00d7 \x03{}[] \u00b5\u00f8\u00fe \x05\x06<>\\ `"


@pytest.fixture
def spiking(stories, data, tmp_path):
    """Stories with garbage after some thirty batches, and a recipe that goes back from it."""
    lines = (data / "text/tinystories_train.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines)

    def write(garbage):
        path = tmp_path / "spiking.txt"
        path.write_text(text[:8000] + GARBLED * garbage + text[8000:40000], encoding="utf-8")
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"""
model: {stories}
data: {{train: ["{path}"], sequence: 64, shuffle: false, cache: off}}
quantize: w8a8
train: {{steps: 50, batch: 2, learning_rate: 1.0e-4, spike_z: 8, on_spike: rollback}}
checkpoint: {{every: 8}}
""")
        return recipe

    return write


BACK = "on with the data after the spike"


def test_fault_D3_a_spike_is_rolled_back(commands, spiking, tmp_path):
    """And a run that is killed behind it goes back again, to the same bits."""
    recipe, whole, killed, output = spiking(2), tmp_path / "whole", tmp_path / "killed", tmp_path / "output.txt"
    done = commands.complete("qat-train", recipe, "--out", whole, expect=0, cwd=ROOT)
    assert BACK in done.stderr
    steps = metrics(whole)
    assert [m["step"] for m in steps] == list(range(1, 51)), "each step once"
    assert all(m["spike"] < 8 for m in steps), "the spike's own step is taken back"
    process = commands.start("qat-train", recipe, "--out", killed, output=output)
    while process.poll() is None and BACK not in output.read_text():
        time.sleep(0.001)
    process.kill()
    process.wait()
    commands.complete("qat-train", recipe, "--out", killed, expect=0, cwd=ROOT)
    kept = ("step", "loss", "lr", "grad_norm", "skipped", "spike")
    first, second = ([[m[key] for key in kept] for m in metrics(run)] for run in (whole, killed))
    assert first == second


def test_fault_D3_a_loss_that_spikes_after_every_rollback_ends_with_4(commands, spiking, tmp_path):
    done = commands.complete("qat-train", spiking(20), "--out", tmp_path / "run", expect=4, cwd=ROOT)
    error = done.stderr.strip().splitlines()[-1]
    assert "the loss spikes again after 3 rollbacks to" in error
    assert "train.learning_rate" in error
