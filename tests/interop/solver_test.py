"""GPTQ and AWQ as stages of a run: what they gain, keep, correct, resume, export and refuse."""

import json
import signal
import time

import numpy
import pytest
from conftest import ROOT, run_recipe
from run_test import metrics, perplexity
from safetensors.numpy import load_file
from tokenizers import Tokenizer

RECIPE = """
model: ${QAT_TEST_DATA}/stories260k
out: unused
data: {train: ["${QAT_TEST_DATA}/text/tinystories_train.jsonl"],
       eval: ["${QAT_TEST_DATA}/text/tinystories_valid.jsonl"], sequence: 128}
quantize:
  preset: gptq_w4_g128
  weights: {bits: 4, group: 32}
  include: [q_proj, k_proj, v_proj, o_proj]
  calibrate: {samples: 64}
  solver: {kind: gptq}
train: {steps: 0}
checkpoint: {every: 4}
evaluate: {max_windows: 200}
"""
# Few sequences, seen again and again: so that twelve steps show what can be learned.
SAME = ["data.train=[SMALL]", "data.shuffle=false", "quantize.calibrate.samples=24", "dtype=fp32"]
TRAIN = [*SAME, "train.batch=8", "train.learning_rate=2.0e-4", "train.schedule.kind=constant",
         "train.steps=12", "distill.teacher=self"]  # fmt: skip
RUNS = {
    "gptq": ["export=[gptq, compressed-tensors, hf]"],
    "gptq-static": ["quantize.solver.actorder=static", "export=[compressed-tensors, hf]"],
    "gptq-group": ["quantize.solver.actorder=group", "export=[gptq, hf]"],
    "awq": ["quantize.preset=awq_w4_g128", "quantize.solver.kind=awq", "export=[awq, hf, hf-master]"],
    "gptq-correct": ["train.trainable=[norms, scales]",
                     "export=[gptq, compressed-tensors, hf]", *TRAIN],
    "awq-correct": ["quantize.solver.kind=awq",
                    "train.trainable=[head, model.layers.4.*]", "export=[gptq, hf]", *TRAIN],
    "gptq-qat": ["export=[compressed-tensors, hf, hf-master]", *TRAIN],
    "gptq-lora": ["adapter={kind: lora, r: 4, alpha: 8, base: bf16, "
                  "target_modules: [q_proj, v_proj]}", "export=[gptq, hf]", *TRAIN,
                  "train.learning_rate=5.0e-3"],
}  # fmt: skip
TRAINED = [name for name, sets in RUNS.items() if "train.steps=12" in sets]
LINEARS = 5 * 4


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("solvers")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "small.txt").write_text((data / "text" / "tinyshakespeare.txt").read_text()[:5000])
    return folder


@pytest.fixture(scope="module")
def train(commands, folder):
    """Trains the recipe with these settings into folder/NAME."""

    def train(name, *sets):
        return run_recipe(commands, folder / "recipe.yaml", folder / name, *settings(folder, sets))

    return train


def settings(folder, sets) -> list[str]:
    return [setting.replace("SMALL", str(folder / "small.txt")) for setting in sets]


@pytest.fixture(scope="module")
def runs(train):
    done = {}

    def run(name):
        if name not in done:
            done[name] = train(name, *RUNS[name])
        return done[name]

    return run


def result_of(run) -> dict:
    return json.loads((run / "result.json").read_text())


def codes_of(run, kind="compressed-tensors") -> dict:
    part = ".weight_packed" if kind == "compressed-tensors" else ".qweight"
    stored = load_file(run / "export" / kind / "model.safetensors")
    return {name: values for name, values in stored.items() if name.endswith(part)}


@pytest.mark.parametrize("name", ["gptq", "gptq-static", "gptq-group", "awq"])
def test_solvers_lose_less_than_rounding(runs, name):
    result = result_of(runs(name))
    source, rounded, solved = (perplexity(result, kind) for kind in ("source", "rtn", "ptq"))
    assert result["quantized_linears"] == LINEARS
    assert solved - source < 0.95 * (rounded - source), (source, rounded, solved)


@pytest.mark.parametrize("name", list(RUNS))
def test_qat_eval_repeats_the_table(commands, runs, data, name):
    """The run directory, and what it exported, hold the very codes that were measured."""
    run = runs(name)
    result = result_of(run)
    kind = "qat" if name in TRAINED else "ptq"
    call = ["--text", data / "text" / "tinystories_valid.jsonl", "--context", 128,
            "--max-windows", 200, "--json"]  # fmt: skip
    ours = commands.json("qat-eval", run, *call)
    assert ours["perplexity"] == pytest.approx(perplexity(result, kind), rel=1e-5)
    for export in (run / "export").iterdir():
        if export.name == "hf-master":
            continue
        exported = commands.json("qat-eval", export, *call)
        # GPTQ and AWQ files hold embeddings and norms in F16.
        assert exported["perplexity"] == pytest.approx(perplexity(result, kind), rel=2e-3), export


@pytest.mark.parametrize("name", TRAINED)
def test_training_repairs(runs, name):
    kl = [m["kl"] for m in metrics(runs(name))]
    assert sum(kl[-3:]) < 0.97 * sum(kl[:3]), kl


def test_correction_keeps_the_codes(runs, train):
    """Scales and norms were trained; not one code moved, and nothing else did."""
    solved = train("gptq-same", *SAME, "export=[gptq, compressed-tensors, hf]")
    corrected = runs("gptq-correct")
    for kind in ("compressed-tensors", "gptq"):
        before, after = codes_of(solved, kind), codes_of(corrected, kind)
        assert len(before) == LINEARS
        for name in before:
            assert before[name].tobytes() == after[name].tobytes(), name
    one, other = (load_file(run / "export" / "hf" / "model.safetensors") for run in (solved, corrected))
    for name in one:
        same = one[name].tobytes() == other[name].tobytes()
        trained = "norm" in name or name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "o_proj")
        assert same != trained, name
    scales = load_file(corrected / "export" / "compressed-tensors" / "model.safetensors")
    for name, values in scales.items():
        if name.endswith("weight_scale"):
            values = values.astype(numpy.float32)
            assert (values == values.astype(numpy.float16).astype(numpy.float32)).all(), name


def test_only_named_layers_move(train):
    """The awq run trained its head and last layer on the solved grid; other codes are frozen."""
    solved = train("awq-same", *SAME, "quantize.solver.kind=awq", "export=[gptq, hf]")
    # Fast enough to move weights out of the middle of their codes.
    trained = train("awq-moved", *RUNS["awq-correct"], "train.learning_rate=4.0e-3")
    before, after = codes_of(solved, "gptq"), codes_of(trained, "gptq")
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert moved and all(name.startswith("model.layers.4.") for name in moved), moved


def test_training_starts_from_the_solved_codes(train):
    """QAT without a step that learns ends with the codes and scales it started with."""
    solved = train("solved", *SAME, "export=compressed-tensors")
    still = train("still", *RUNS["gptq-qat"], "train.steps=1", "train.learning_rate=1.0e-9")
    one, other = (
        load_file(run / "export" / "compressed-tensors" / "model.safetensors")
        for run in (solved, still)
    )
    for name in one:
        if "weight_packed" in name or "weight_scale" in name:
            assert one[name].astype("f4").tobytes() == other[name].astype("f4").tobytes(), name


def test_awq_factors_are_those_of_the_formula(commands, stories, data, folder):
    """The first norm was divided by one of AutoAWQ's twenty candidates, from inputs that numpy
    computes: x_mean^r / (w_mean^(1-r) + 1e-4), over the root of its largest and smallest."""
    text = folder / "text.txt"
    text.write_text((data / "text" / "tinyshakespeare.txt").read_text()[:20000])
    run = run_recipe(
        commands, folder / "recipe.yaml", folder / "factors", "quantize.solver.kind=awq",
        "quantize.calibrate.samples=16", "export=hf-master", "dtype=fp32", "data.shuffle=false",
        f"data.train=[{text}]",
    )  # fmt: skip
    before = load_file(stories / "model.safetensors")
    after = load_file(run / "export" / "hf-master" / "model.safetensors")
    name = "model.layers.0.input_layernorm.weight"
    factors = before[name].astype("f8") / after[name].astype("f8")
    assert factors.max() > 1.2 * factors.min()
    ids = Tokenizer.from_file(str(stories / "tokenizer.json")).encode(
        text.read_text(), add_special_tokens=False
    ).ids[: 16 * 128]  # fmt: skip
    hidden = before["model.embed_tokens.weight"].astype("f8")[ids]
    normed = hidden / numpy.sqrt((hidden**2).mean(1, keepdims=True) + 1e-5) * before[name]
    x_mean = numpy.abs(normed).mean(0)
    weights = numpy.concatenate(
        [before[f"model.layers.0.self_attn.{which}_proj.weight"].astype("f8") for which in "qkv"]
    )
    groups = numpy.abs(weights).reshape(-1, 32)
    w_mean = (groups / (groups.max(1, keepdims=True) + 1e-6)).reshape(weights.shape).mean(0)
    distances = []
    for ratio in numpy.arange(20) / 20:
        s = numpy.maximum(x_mean**ratio / (w_mean ** (1 - ratio) + 1e-4), 1e-4)
        s /= numpy.sqrt(s.max() * s.min())
        distances.append(numpy.abs(s / factors - 1).max())
    assert min(distances) < 1e-4, distances


def test_killed_after_solving(commands, runs, folder):
    """Codes lie in the first checkpoint: a run that goes on does not solve again, and ends alike."""
    out, output = folder / "killed", folder / "killed.txt"
    process = commands.start("qat-train", folder / "recipe.yaml", "--out", out,
                             *[part for s in settings(folder, RUNS["gptq-correct"]) for part in ("--set", s)],
                             output=output)  # fmt: skip
    while not (out / "checkpoints" / "step-0").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = folder / "again.txt"
    process = commands.start("qat-train", folder / "recipe.yaml", "--out", out,
                             *[part for s in settings(folder, RUNS["gptq-correct"]) for part in ("--set", s)],
                             output=again)  # fmt: skip
    assert process.wait() == 0, again.read_text()
    assert "gptq: layer 5/5" in output.read_text()
    assert "gptq: layer" not in again.read_text()
    whole = runs("gptq-correct")
    for kind in ("compressed-tensors", "hf"):
        one, other = (load_file(r / "export" / kind / "model.safetensors") for r in (whole, out))
        for name in one:
            assert one[name].tobytes() == other[name].tobytes(), name
    keys = ("step", "loss", "grad_norm")
    one, other = ([{k: m[k] for k in keys} for m in metrics(r)] for r in (whole, out))
    assert one == other


def test_dry_run_says_what_solving_takes(commands, folder):
    text = commands.said("qat-train", folder / "recipe.yaml", "--dry-run",
                         *[part for s in settings(folder, RUNS["gptq-correct"]) for part in ("--set", s)])  # fmt: skip
    assert "solver: gptq, layer by layer on 24 sequences of 128 tokens; beside the model" in text
    # 24 x 128 tokens of 64 channels in fp32
    assert "hidden states 0.8" in text
    assert "trained: 0 matrices, 11 vectors and the scales of 20 matrices" in text


@pytest.mark.parametrize(
    "sets, message",
    [
        (["train.trainable=[norm_of_nothing]", "train.steps=1"], "'norm_of_nothing' matches no parameter"),
        (["quantize.solver.actorder=group", "train.steps=1"], "quantize.solver.actorder: group, but"),
        (["quantize.solver.actorder=group", "export=[compressed-tensors]"], "none or static where export"),
        (["quantize.solver.kind=awq", "adapter={kind: lora}"], "rtn or gptq beside an adapter"),
        (["adapter={kind: lora, base: nf4}"], "rtn where adapter.base is packed"),
    ],
)
def test_refusals(commands, folder, sets, message):
    call = [part for s in sets for part in ("--set", s)]
    done = commands.complete("qat-train", folder / "recipe.yaml", "--out", folder / "refused", *call,
                             expect=2, cwd=ROOT)  # fmt: skip
    assert message in done.stderr
