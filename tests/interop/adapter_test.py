"""Runs with adapters on low-bit bases: what they learn, keep, resume, refuse and export."""

import json
import os
import signal
import time

import pytest
from conftest import run_recipe
from run_test import metrics, perplexity
from safetensors.numpy import load_file

RECIPE = """
model: ${QAT_TEST_DATA}/stories260k
out: unused
data: {train: ["${QAT_TEST_DATA}/text/tinystories_train.jsonl"],
       eval: ["${QAT_TEST_DATA}/text/wikitext2_raw_test_a.txt"], sequence: 128}
train: {steps: 16, batch: 4, micro_batch: 2, learning_rate: 5.0e-3, optimizer: {state_bits: 8}}
checkpoint: {every: 4}
evaluate: {metrics: [perplexity], max_windows: 24}
"""
RUNS = {
    "lora-nf4": "adapter: {kind: lora, r: 4, alpha: 8, dropout: 0.1, base: nf4}\nexport: [peft, hf]",
    "dora-int8": "adapter: {kind: dora, r: 4, alpha: 4, use_rslora: true, base: int8,"
    " target_modules: [q_proj, mlp.down_proj]}\nexport: [peft, hf]",
    "qat-lora-nf4": "quantize: w4a8\nadapter: {kind: lora, r: 4, alpha: 8, base: nf4}\n"
    "export: [peft, hf, compressed-tensors]",
    "qat-dora-fp4": "quantize: w8a8\nadapter: {kind: dora, r: 4, alpha: 8, base: fp4, dtype: bf16}\n"
    "export: [hf]",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


def make_recipe(folder, name):
    path = folder / f"{name}.yaml"
    # Trained on the text that is measured: a few steps are enough to see that adapters learn.
    path.write_text(RECIPE.replace("tinystories_train.jsonl", "wikitext2_raw_test_a.txt") + RUNS[name])
    return path


@pytest.fixture(scope="module", params=list(RUNS))
def run(request, commands, data, folder):
    return run_recipe(commands, make_recipe(folder, request.param), folder / request.param)


def test_adapters_learn(run):
    result = json.loads((run / "result.json").read_text())
    before, after = ("ptq", "qat") if "qat" in run.name else ("source", "trained")
    assert perplexity(result, after) < 0.97 * perplexity(result, before)


def test_checkpoints_hold_adapters_alone(run):
    newest = run / "checkpoints" / "step-16"
    size = sum(path.stat().st_size for path in newest.iterdir())
    whole = (run / "export" / "hf" / "model.safetensors").stat().st_size
    assert size < 0.6 * whole


def test_qat_eval_repeats_the_table(commands, run, data):
    result = json.loads((run / "result.json").read_text())
    kind = "qat" if "qat" in run.name else "trained"
    ours = commands.json("qat-eval", run, "--text", data / "text" / "wikitext2_raw_test_a.txt",
                         "--context", 128, "--max-windows", 24, "--json")  # fmt: skip
    assert ours["perplexity"] == pytest.approx(perplexity(result, kind), rel=1e-5)
    assert commands.run("qat-generate", run, "--prompt", "One day", "--max-tokens", 4).startswith("One day")


def test_exported_model_is_the_merged_one(commands, run, data):
    if "qat" in run.name:
        pytest.skip("an export of quantized activations is measured without them")
    result = json.loads((run / "result.json").read_text())
    merged = commands.json("qat-eval", run / "export" / "hf", "--text",
                           data / "text" / "wikitext2_raw_test_a.txt", "--context", 128,
                           "--max-windows", 24, "--json")  # fmt: skip
    # Embeddings are bf16 in both; the merged product rounds once where the run rounds twice.
    assert merged["perplexity"] == pytest.approx(perplexity(result, "trained"), rel=1e-4)


def test_peft_directory_on_its_base(commands, run, stories, data):
    if not (run / "export" / "peft").exists() or "qat" in run.name:
        pytest.skip("no plain peft export in this run")
    result = json.loads((run / "result.json").read_text())
    base = run.name.split("-")[-1]
    call = ["--text", data / "text" / "wikitext2_raw_test_a.txt", "--context", 128,
            "--max-windows", 24, "--json", "--adapter", run / "export" / "peft"]  # fmt: skip
    ours = commands.json("qat-eval", stories, *call, "--base", base)
    assert ours["perplexity"] == pytest.approx(perplexity(result, "trained"), rel=1e-5)
    unquantized = commands.json("qat-eval", stories, *call)
    assert unquantized["perplexity"] != pytest.approx(perplexity(result, "trained"), rel=1e-5)


def test_starts_from_a_peft_directory(commands, run, folder, stories):
    if not (run / "export" / "peft").exists() or "qat" in run.name:
        pytest.skip("no plain peft export in this run")
    kind, base = run.name.split("-")
    recipe = folder / "again.yaml"
    text = RECIPE.replace("tinystories_train.jsonl", "wikitext2_raw_test_a.txt")
    recipe.write_text(text + f"adapter: {{kind: {kind}, base: {base}, from: {run / 'export' / 'peft'}}}")
    again = run_recipe(commands, recipe, folder / f"again-{kind}", "train.steps=1")
    result, before = (json.loads((r / "result.json").read_text()) for r in (again, run))
    assert perplexity(result, "source") == pytest.approx(perplexity(before, "trained"), rel=1e-6)


def test_stopped_and_resumed(commands, run, folder):
    out = folder / f"stopped-{run.name}"
    process = commands.start("qat-train", folder / f"{run.name}.yaml", "--out", out,
                             output=folder / "output.txt")  # fmt: skip
    while process.poll() is None:
        path = out / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= 5:
            os.kill(process.pid, signal.SIGTERM)
            break
        time.sleep(0.001)
    assert process.wait() in (0, 85)
    run_recipe(commands, folder / f"{run.name}.yaml", out)
    keys = ("step", "loss", "grad_norm", "lr")
    assert [[m[k] for k in keys] for m in metrics(out)] == [[m[k] for k in keys] for m in metrics(run)]
    for tensors in sorted(run.glob("export/*/*.safetensors")):
        # Whole files: numpy has no bf16, which scales are stored in where they are exact in it.
        assert tensors.read_bytes() == (out / tensors.relative_to(run)).read_bytes(), tensors


def test_another_base_is_refused(commands, stories, data, folder, tmp_path):
    """A checkpoint of adapters names the weights they were trained on."""
    from safetensors.numpy import save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in stories.iterdir():
        if path.suffix != ".safetensors":
            (model / path.name).write_bytes(path.read_bytes())
    tensors = load_file(stories / "model.safetensors")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    recipe = make_recipe(folder, "lora-nf4")
    run_recipe(commands, recipe, tmp_path / "run", f"model={model}", "train.steps=4", "export=[]")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "run" / "result.json").unlink()
    done = commands.complete("qat-train", recipe, "--out", tmp_path / "run", "--set", f"model={model}",
                             "--set", "train.steps=4", "--set", "export=[]", expect=2, cwd=folder)  # fmt: skip
    assert "another base" in done.stderr
    text = data / "text" / "wikitext2_raw_test_a.txt"
    done = commands.complete("qat-eval", tmp_path / "run", "--text", text, expect=2, cwd=folder)
    assert "another base" in done.stderr


SEVEN_B = dict(
    model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=4096, intermediate_size=11008,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, vocab_size=32000,
    max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    hidden_act="silu",
)  # fmt: skip


def test_seven_billion_on_paper(commands, tmp_path):
    """A dry run needs no weights: QLoRA of a 7B model at 2048 tokens fits 12 GiB."""
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: {tmp_path}\nout: {tmp_path.parent / 'out'}\ndata: {{train: [t.txt], sequence: 2048}}\n"
        "train: {steps: 10, batch: 1, optimizer: {state_bits: 8}}\n"
        "adapter: {kind: lora, r: 16, alpha: 32, base: nf4}\n"
    )
    said = commands.said("qat-train", recipe, "--dry-run")
    line = next(line for line in said.splitlines() if line.startswith("memory:"))
    assert int(line.split()[1]) < 12 * 1024, line
    assert "frozen base" in line
