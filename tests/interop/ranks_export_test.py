"""What several ranks export is, byte for byte, what one process exports of the same weights."""

import subprocess

import pytest
from conftest import ROOT
from ranks_test import ENVIRONMENT, mpirun, run_ranks  # noqa: F401

RECIPE = """
model: ${QAT_TEST_DATA}/stories260k
out: unused
data: {train: ["${QAT_TEST_DATA}/text/tinystories_train.jsonl"], sequence: 64}
train: {steps: 3, batch: 6, learning_rate: 1.0e-3, warmup_bf16: 0, schedule: {warmup: 0}}
"""
# Large enough ranks that the factors are dealt, as any matrix.
ADAPTER = "{kind: lora, rank: 64, alpha: 64, base: BASE, target_modules: [q_proj, gate_proj, down_proj]}"
ATTENTION = "include: [q_proj, k_proj, v_proj, o_proj]"
CASES = {
    "every grid alike": (
        f"quantize: {{preset: portable_w4, {ATTENTION}}}",
        ["hf", "hf-master", "compressed-tensors", "gguf", "gptq"],
    ),
    "trained scales": (
        "quantize: {preset: w4a8, weights: {rounding: lsq}}",
        ["hf", "compressed-tensors"],
    ),
    "solved by gptq": (
        f"quantize: {{preset: gptq_w4_g128, solver: gptq, {ATTENTION}}}",
        ["hf", "gptq"],
    ),
    "solved by awq": (
        f"quantize: {{preset: awq_w4_g128, solver: awq, {ATTENTION}}}",
        ["hf-master", "awq", "gptq"],
    ),
    "adapter": (f"adapter: {ADAPTER}".replace("BASE", "none"), ["peft", "hf"]),
    "adapter on nf4": (f"adapter: {ADAPTER}".replace("BASE", "nf4"), ["peft", "hf", "gguf"]),
}


def contents(folder) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("ranks, stage", [(2, 0), (2, 3), (3, 0), (3, 3)])
@pytest.mark.parametrize("case", CASES)
def test_every_format_has_the_bytes_of_one_process(
    mpirun, commands, data, tmp_path, case, ranks, stage  # noqa: F811
):
    quantize, formats = CASES[case]
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(RECIPE + quantize + f"\nexport: [{', '.join(formats)}]\n")
    said = run_ranks(mpirun, commands, ranks, recipe, run, f"train.zero_stage={stage}")
    assert f"{ranks} ranks" in said
    for name in formats:
        commands.run("qat-export", run, "--format", name, "-o", tmp_path / name)
        written, alone = contents(run / "export" / name), contents(tmp_path / name)
        assert written.keys() == alone.keys()
        for file in alone:
            assert written[file] == alone[file], f"{name}: {file}"


def test_one_of_the_ranks_of_qat_export_writes(mpirun, commands, short_run, tmp_path):  # noqa: F811
    """Ranks that each wrote the same output would replace each other's."""
    call = [*mpirun, "3", str(commands.path("qat-export")), str(short_run), "--format", "hf", "--json"]
    out = tmp_path / "hf"
    done = subprocess.run([*call, "-o", str(out)], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"verified":true') == 1 and done.stderr.count("exported ") == 1
    assert contents(out) == contents(short_run / "export" / "hf")
    # What the one cannot do ends them all, and is said once.
    call[call.index("hf")] = "gptq"
    done = subprocess.run([*call, "-o", str(out)], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 2 and done.stderr.count("qat-export: error: ") == 1, done.stderr
