"""Bits of each matrix: chosen by measurement before training, kept by all that goes on from the run
and by what is written from it."""

import json

import gguf
import pytest
from conftest import ROOT, run_recipe
from ranks_test import mpirun, run_ranks, steps_of  # noqa: F401
from resume_test import assert_same_run, killed_and_resumed
from run_source_test import read_result

AUTO = ROOT / "recipes" / "stories-auto-bits.yaml"
WINDOW = ("--context", 128, "--max-windows", 16, "--json")
UNTRAINED = ("train.steps=0", "train.schedule.warmup=0", "distill=none")


def chosen(run) -> dict[str, int]:
    """Path -> bits, as the result has them."""
    units = read_result(run)["evaluations"]["auto_bits"]["units"]
    return {f"model.layers.{u['layer']}.{name}": u["bits"] for u in units for name in u["linears"]}


def written(run) -> dict[str, int]:
    """Path -> bits, as transformers and vLLM read them."""
    config = json.loads((run / "export" / "compressed-tensors" / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"].values()
    return {target: group["weights"]["num_bits"] for group in groups for target in group["targets"]}


@pytest.fixture(scope="module")
def auto_run(commands, data, tmp_path_factory):
    """recipes/stories-auto-bits.yaml, cut to 24 steps, two layers more every third."""
    return run_recipe(
        commands, AUTO, tmp_path_factory.mktemp("runs") / "auto", "train.steps=24", "checkpoint.every=8",
        "train.enable={order: sensitivity, layers: 2, every: 3}", "export=[hf,hf-master,compressed-tensors]",
    )  # fmt: skip


def test_result_says_what_was_measured_and_chosen(auto_run):
    result = read_result(auto_run)
    auto = result["evaluations"]["auto_bits"]
    assert len(auto["units"]) == 20 and len(chosen(auto_run)) == 35
    assert {u["bits"] for u in auto["units"]} == {4, 8}
    assert 4.7 < auto["bits"] <= auto["budget"] == 5
    assert result["size"]["bits_per_quantized_weight"] == pytest.approx(auto["bits"], rel=1e-12)
    assert auto["predicted_kl"] == pytest.approx(sum(u["kl"][str(u["bits"])] for u in auto["units"]))
    assert auto["uniform"]["8"]["kl"] < auto["kl"] < auto["uniform"]["4"]["kl"]
    counts = [list(chosen(auto_run).values()).count(bits) for bits in (4, 8)]
    assert f"{counts[0]} weights of 4 bits, {counts[1]} of 8" in result["scheme"]
    # Layers went on in the order that the chosen grids ask for.
    assert len(result["evaluations"]["sensitivity"]) == 5
    report = (auto_run / "report.html").read_text()
    assert "Bits of each matrix, by the KL" in report


def test_the_file_has_these_bits_and_nothing_that_vllm_fuses_differs(commands, auto_run, data):
    assert written(auto_run) == chosen(auto_run)
    text = data / "text" / "tinystories_valid.jsonl"
    run, served = (
        commands.json("qat-eval", model, "--text", text, *WINDOW)
        for model in (auto_run, auto_run / "export" / "compressed-tensors")
    )
    assert run["nll"] == pytest.approx(served["nll"], rel=1e-12)
    assert run["quantization"] == served["quantization"] and len(run["quantization"]) > 2


def test_every_command_takes_the_chosen_bits(commands, auto_run, tmp_path):
    commands.run("qat-export", auto_run, "--format", "compressed-tensors", "-o", tmp_path / "again")
    first, second = (
        (folder / "model.safetensors").read_bytes()
        for folder in (auto_run / "export" / "compressed-tensors", tmp_path / "again")
    )
    assert first == second
    prompt = ("--prompt", "Once upon a time", "--max-tokens", 12)
    assert commands.run("qat-generate", auto_run, *prompt) == commands.run(
        "qat-generate", auto_run / "export" / "compressed-tensors", *prompt
    )
    seen = commands.json("qat-inspect", auto_run, "--json")["quantization"]["schemes"]
    assert sorted({scheme["weights"]["bits"] for scheme in seen}) == [4, 8]
    # Another run starts from its masters, and chooses anew.
    model = run_recipe(commands, AUTO, tmp_path / "next", f"model={auto_run}", *UNTRAINED, "data.eval=[]",
                       "export=[]", "evaluate.metrics=[]")  # fmt: skip
    assert chosen(model).keys() == chosen(auto_run).keys()


def test_the_choice_outlives_kills_and_is_made_once(commands, auto_run, tmp_path):
    out = killed_and_resumed(commands, auto_run / "recipe.yaml", tmp_path)
    assert_same_run(auto_run, out)
    assert read_result(out)["evaluations"]["auto_bits"] == read_result(auto_run)["evaluations"]["auto_bits"]
    assert (tmp_path / "output.txt").read_text().count("measurements of the layers") == 1


def test_written_as_overrides_it_is_the_same_run(commands, auto_run, tmp_path):
    wide = [f"{path}=8" for path, bits in chosen(auto_run).items() if bits == 8]
    out = run_recipe(commands, auto_run / "recipe.yaml", tmp_path / "by_hand", "quantize.auto_bits=none",
                     f"quantize.overrides=[{', '.join(wide)}]")  # fmt: skip
    assert_same_run(auto_run, out)


def test_a_choice_of_another_recipe_is_refused(commands, auto_run, tmp_path):
    recipe = auto_run / "recipe.yaml"
    said = commands.complete("qat-train", recipe, "--set", "quantize.auto_bits.budget=6", "--out", auto_run,
                             expect=2, cwd=ROOT).stderr  # fmt: skip
    assert "quantize.auto_bits.budget: 5 -> 6" in said
    # By its name alone a matrix may differ; its bits must be among the candidates.
    said = commands.complete(
        "qat-train", recipe, "--out", tmp_path / "out", "--set", "resume=" + str(auto_run / "checkpoints" / "step-16"),
        "--set", "quantize.auto_bits.candidates=[4, 5]", "--set", "export=[]", expect=2, cwd=ROOT,
    ).stderr  # fmt: skip
    assert "are none of this recipe's quantize.auto_bits.candidates" in said


def test_two_ranks_choose_the_same_and_go_on_from_one(mpirun, commands, auto_run, tmp_path):  # noqa: F811
    said = run_ranks(mpirun, commands, 2, auto_run / "recipe.yaml", tmp_path / "two", "train.zero_stage=3")
    assert said.count("measurements of the layers") == 1
    assert chosen(tmp_path / "two") == chosen(auto_run)
    assert written(tmp_path / "two") == chosen(auto_run)
    start = f"resume={auto_run}/checkpoints/step-16"
    said = run_ranks(mpirun, commands, 2, auto_run / "recipe.yaml", tmp_path / "on", start)
    assert "measurements of the layers" not in said
    assert written(tmp_path / "on") == chosen(auto_run)
    assert [s["enabled_layers"] for s in steps_of(tmp_path / "on")] == [
        s["enabled_layers"] for s in steps_of(auto_run)[16:]
    ]


def test_gguf_holds_a_type_for_each_choice(commands, data, tmp_path):
    """Rows of 172 columns stay F16 there, so the choice is between the others."""
    run = run_recipe(
        commands, AUTO, tmp_path / "run", *UNTRAINED, "quantize.preset=gguf_q4_0", "export=[gguf]",
        "quantize.auto_bits={budget: 6, candidates: [4, 5, 8], samples: 8}",
    )  # fmt: skip
    result = read_result(run)
    assert result["exports"]["gguf"]["verified"] and result["exports"]["gguf"]["kl"] < 2e-3
    [file] = (run / "export" / "gguf").glob("*.gguf")
    stored = {t.name: t.tensor_type.name for t in gguf.GGUFReader(file).tensors}
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}  # fmt: skip
    bits = chosen(run)
    assert len(bits) == 30 and len(set(bits.values())) > 1
    for path, width in bits.items():
        layer, name = path.removeprefix("model.layers.").split(".", 1)
        assert stored[f"blk.{layer}.{names[name]}.weight"] == {4: "Q4_0", 5: "Q5_0", 8: "Q8_0"}[width], path


def test_solver_and_smoothing_work_on_the_chosen_grid(commands, data, tmp_path):
    """What comes before training comes behind the choice."""
    common = (*UNTRAINED, "quantize.calibrate.samples=8", "evaluate.max_windows=4", "export=[compressed-tensors]")
    gptq = run_recipe(commands, AUTO, tmp_path / "gptq", *common, "quantize.solver=gptq")
    assert written(gptq) == chosen(gptq)
    stages = read_result(gptq)["evaluations"]
    assert stages["ptq"] != stages["rtn"]
    smooth = run_recipe(commands, AUTO, tmp_path / "smooth", *common, "quantize.preset=ct_w8a8_static",
                        "quantize.smooth=0.5", "quantize.auto_bits={budget: 6, candidates: [4, 8]}")  # fmt: skip
    assert written(smooth) == chosen(smooth) and set(chosen(smooth).values()) == {4, 8}
