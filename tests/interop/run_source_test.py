"""A run directory as the start of another run, and as its teacher."""

import json
import shutil

from conftest import ROOT, run_recipe
from run_test import metrics, perplexity
from safetensors.numpy import load_file

STORIES = ROOT / "recipes" / "stories-w8a8.yaml"


def read_result(run):
    return json.loads((run / "result.json").read_text())


def test_the_masters_of_the_newest_checkpoint(commands, short_run, tmp_path):
    """The same tensors, bit for bit, as the run's own export of them, and so the same perplexity."""
    steps = ["train.steps=0", "train.warmup_bf16=0", "train.schedule.warmup=0", "distill=none",
             "generate.prompts=[]", "quantize=none", "export=[hf-master]"]  # fmt: skip
    sets = [part for setting in steps for part in ("--set", setting)]
    said = commands.said("qat-train", STORIES, "--set", f"model={short_run}", "--out", tmp_path / "run", *sets)
    assert f"model: the high-precision weights of {short_run}/checkpoints/step-24" in said
    run_recipe(commands, STORIES, tmp_path / "export", f"model={short_run}/export/hf-master", *steps)
    expected = load_file(short_run / "export" / "hf-master" / "model.safetensors")
    found = load_file(tmp_path / "run" / "export" / "hf-master" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name in expected:
        assert expected[name].tobytes() == found[name].tobytes(), name
    from_run, from_export = (perplexity(read_result(tmp_path / name), "source") for name in ("run", "export"))
    assert from_run == from_export
    # A run that started from a run is one to start from, too.
    assert "model:" in commands.said("qat-train", STORIES, "--set", f"model={tmp_path}/run", "--dry-run", "--out",
                                     tmp_path / "third", "--set", "export=[]")  # fmt: skip


def test_as_a_teacher(commands, short_run, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(short_run, teacher)
    steps = ["train.steps=4", "train.warmup_bf16=1", "train.enable.every=1", "checkpoint.every=2", "data.eval=[]",
             "evaluate.metrics=[]", "generate.prompts=[]", "export=[]"]  # fmt: skip
    by_run = run_recipe(commands, STORIES, tmp_path / "by_run", f"distill.teacher={teacher}", *steps)
    by_export = run_recipe(commands, STORIES, tmp_path / "by_export",
                           f"distill.teacher={teacher}/export/hf-master", *steps)  # fmt: skip
    assert [m["kl"] for m in metrics(by_run)] == [m["kl"] for m in metrics(by_export)]
    assert metrics(by_run)[0]["kl"] > 0, "the teacher is not the student"
    # The teacher's run "goes on": it has another newest checkpoint.
    (by_run / "result.json").unlink()
    shutil.rmtree(teacher / "checkpoints" / "step-24")
    said = commands.complete("qat-train", by_run / "recipe.yaml", expect=2, cwd=ROOT).stderr
    assert "distill.teacher" in said and "step-16" in said


def test_a_run_without_a_checkpoint(commands, short_run, tmp_path):
    shutil.copytree(short_run, tmp_path / "empty", ignore=shutil.ignore_patterns("step-*"))
    said = commands.complete("qat-train", STORIES, "--set", f"model={tmp_path}/empty", "--out", tmp_path / "run",
                             expect=2, cwd=ROOT).stderr  # fmt: skip
    assert "has no whole checkpoint" in said


def test_a_model_that_is_not_there(commands, tmp_path):
    for key in ("model", "distill.teacher"):
        said = commands.complete("qat-train", STORIES, "--set", f"{key}={tmp_path}/nowhere", "--dry-run",
                                 expect=2, cwd=ROOT).stderr  # fmt: skip
        assert f"{key}: {tmp_path}/nowhere does not exist" in said
