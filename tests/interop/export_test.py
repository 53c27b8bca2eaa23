"""Exports through the commands: what is served is what is evaluated, in every format we write."""

import json
import shutil

import gguf
import numpy
import pytest
from conftest import ROOT, run_recipe
from safetensors.numpy import load_file, save_file

STORIES = ROOT / "recipes" / "stories-w8a8.yaml"
WINDOW = ("--context", 128, "--max-windows", 16, "--json")


def layer(tensors, name):
    return {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")}


def fields(words, bits):
    """The fields of 32-bit words, lowest first, as a last axis."""
    shifts = numpy.arange(0, 32, bits, dtype=numpy.uint32)
    return (words.astype(numpy.uint32)[..., None] >> shifts & ((1 << bits) - 1)).astype(numpy.int32)


def gptq_weight(t, bits, stored_less_one):
    """GPTQ's layout read a second time: inputs along the first axis, packed along it."""
    codes = fields(t["qweight"], bits).transpose(0, 2, 1)  # [K/p, p, N]
    codes = codes.reshape(-1, t["qweight"].shape[1])
    zeros = fields(t["qzeros"], bits).reshape(t["qzeros"].shape[0], -1) + stored_less_one
    group = t["g_idx"]
    return ((codes - zeros[group]) * t["scales"].astype(numpy.float32)[group]).T


def awq_weight(t, group):
    """AWQ's: packed along the outputs, nibble p of a word holding output [0,2,4,6,1,3,5,7][p]."""
    back = numpy.argsort([0, 2, 4, 6, 1, 3, 5, 7])

    def unpack(words):
        return fields(words, 4)[..., back].reshape(words.shape[0], -1)

    groups = numpy.arange(t["qweight"].shape[0]) // group
    zeros = unpack(t["qzeros"])[groups]
    return ((unpack(t["qweight"]) - zeros) * t["scales"].astype(numpy.float32)[groups]).T


SCHEMES = {
    "w8a8": ["compressed-tensors"],
    "ct_w8a8": ["compressed-tensors"],
    "ct_w8a8_static": ["compressed-tensors"],
    "ct_w4a8": ["compressed-tensors"],
    "ct_w4a16_g128": ["compressed-tensors"],
    "gptq_w4_g128": ["gptq", "hf"],
    "gptq_w8": ["gptq"],
    "awq_w4_g128": ["awq", "gptq"],
}


def linears(preset):
    """GPTQ and AWQ want sizes in multiples of 32; stories260k's feed-forward part has 172."""
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    packed = preset.startswith(("gptq", "awq"))
    return attention if packed else [*attention, "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module", params=SCHEMES)
def scheme_run(request, commands, data, tmp_path_factory):
    """A few steps on each preset's grid, exported to what it is for."""
    out = tmp_path_factory.mktemp("runs") / request.param
    return request.param, run_recipe(
        commands, STORIES, out, f"quantize={request.param}", "train.steps=2", "train.batch=2",
        "train.warmup_bf16=0", "train.enable.layers=0", "train.schedule.warmup=0",
        "quantize.calibrate.samples=8", "evaluate.max_windows=4", "generate.prompts=[]",
        f"quantize.include=[{','.join(linears(request.param))}]",
        f"export=[{','.join(SCHEMES[request.param])}]",
    )  # fmt: skip


def test_what_is_served_is_what_is_evaluated(commands, scheme_run, data):
    """qat-eval of the run and of its export are one number, activations included."""
    preset, run = scheme_run
    text = data / "text" / "tinystories_valid.jsonl"
    trained = commands.json("qat-eval", run, "--text", text, *WINDOW)
    for name in SCHEMES[preset]:
        served = commands.json("qat-eval", run / "export" / name, "--text", text, *WINDOW)
        if name == "hf":
            assert served["quantization"] == []
            continue
        rel = 1e-12 if name == "compressed-tensors" else 2e-4  # the others round the rest to F16
        assert served["nll"] == pytest.approx(trained["nll"], rel=rel), name
        assert served["quantized_linears"] == 5 * len(linears(preset))
        assert served["quantization"] == trained["quantization"]


def test_result_has_the_three_numbers(scheme_run):
    preset, run = scheme_run
    exports = json.loads((run / "result.json").read_text())["exports"]
    assert set(exports) == set(SCHEMES[preset])
    for name, export in exports.items():
        assert export["verified"] and 0 <= export["kl"] < 1e-4, (name, export)
        assert export["same_likeliest_token"] > 0.99
        assert export["perplexity"] == pytest.approx(export["trained_perplexity"], rel=1e-3)
        assert export["text"].endswith("tinystories_valid.jsonl") and export["tokens"] > 500


def test_packed_weights_are_the_trained_ones(commands, scheme_run, tmp_path):
    """numpy's reading of qweight, qzeros and scales gives our own values, bit for bit."""
    preset, run = scheme_run
    packed = [name for name in SCHEMES[preset] if name in ("gptq", "awq")]
    if not packed:
        pytest.skip("this preset is for compressed-tensors")
    commands.run("qat-export", run, "--format", "hf", "-o", tmp_path / "hf")
    ours = load_file(tmp_path / "hf" / "model.safetensors")
    for name in packed:
        tensors = load_file(run / "export" / name / "model.safetensors")
        config = json.loads((run / "export" / name / "config.json").read_text())
        config = config["quantization_config"]
        modules = sorted({k.rsplit(".", 1)[0] for k in tensors if k.endswith(".qweight")})
        assert len(modules) == 5 * len(linears(preset))
        for module in modules:
            t = layer(tensors, module)
            assert t["scales"].dtype == numpy.float16
            if name == "awq":
                weight = awq_weight(t, config["group_size"])
            else:
                weight = gptq_weight(t, config["bits"], config["checkpoint_format"] == "gptq")
            numpy.testing.assert_array_equal(weight, ours[module + ".weight"], err_msg=module)


def test_awq_of_asymmetric_codes_as_gptq_says_v2(scheme_run):
    preset, run = scheme_run
    if preset != "awq_w4_g128":
        pytest.skip("only that preset has zero points")
    config = json.loads((run / "export" / "gptq" / "quantize_config.json").read_text())
    assert config["checkpoint_format"] == "gptq_v2" and config["sym"] is False


def test_groups_that_do_not_divide_fall_back(commands, scheme_run):
    """stories260k has rows of 64 and 172 columns: 172 = 4 x 43 leaves no group at all."""
    preset, run = scheme_run
    if preset == "ct_w4a16_g128":
        seen = commands.json("qat-inspect", run / "export" / "compressed-tensors", "--json")
        stored = {t["name"]: t["stored"] for t in seen["tensors"]}
        assert stored["model.layers.0.self_attn.q_proj.weight"] == "int4 per group of 64"
        assert stored["model.layers.0.mlp.down_proj.weight"] == "int4 per channel"
    elif preset == "gptq_w4_g128":
        config = json.loads((run / "export" / "gptq" / "quantize_config.json").read_text())
        assert config["group_size"] == 64


@pytest.fixture(scope="module")
def wide(stories, tmp_path_factory):
    """A random model whose widths divide by 128, with the stories' tokenizer."""
    out = tmp_path_factory.mktemp("models") / "wide"
    out.mkdir()
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128,
        "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    random = numpy.random.default_rng(5)
    shapes = {"model.embed_tokens.weight": (512, 128), "model.norm.weight": (128,)}
    for i in range(2):
        name = f"model.layers.{i}."
        shapes |= {name + "input_layernorm.weight": (128,),
                   name + "post_attention_layernorm.weight": (128,)}  # fmt: skip
        for module, rows, columns in (
            ("self_attn.q_proj", 128, 128), ("self_attn.k_proj", 64, 128),
            ("self_attn.v_proj", 64, 128), ("self_attn.o_proj", 128, 128),
            ("mlp.gate_proj", 256, 128), ("mlp.up_proj", 256, 128), ("mlp.down_proj", 128, 256),
        ):  # fmt: skip
            shapes[f"{name}{module}.weight"] = (rows, columns)
    tensors = {n: (random.normal(size=s) * 0.08 if len(s) == 2 else numpy.ones(s))
               for n, s in shapes.items()}  # fmt: skip
    save_file({n: t.astype(numpy.float32) for n, t in tensors.items()},
              out / "model.safetensors", {"format": "pt"})  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stories / name, out / name)
    return out


class TestExport:
    """qat-export on its own."""

    def test_repeats_a_runs_export(self, commands, short_run, tmp_path):
        said = commands.json("qat-export", short_run, "--format", "compressed-tensors", "-o",
                             tmp_path / "new" / "ct", "--json")  # fmt: skip
        assert said["kl"] == 0 and "trained on this grid" in said["quantized_by"]
        ours = load_file(tmp_path / "new" / "ct" / "model.safetensors")
        before = load_file(short_run / "export" / "compressed-tensors" / "model.safetensors")
        assert ours.keys() == before.keys()
        for name, tensor in before.items():
            numpy.testing.assert_array_equal(ours[name], tensor, err_msg=name)

    def test_needs_no_data(self, commands, short_run, tmp_path):
        """A run whose texts and source are gone is exported all the same."""
        run = tmp_path / "run"
        shutil.copytree(short_run, run, ignore=shutil.ignore_patterns("cache", "export"))
        recipe = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(recipe.replace("tinystories", "gone"))
        said = commands.json("qat-export", run, "--format", "compressed-tensors", "-o",
                             tmp_path / "ct", "--json")  # fmt: skip
        assert said["text"] == "the built-in text" and said["verified"]

    def test_shards(self, commands, short_run, tmp_path, data):
        commands.run("qat-export", short_run, "--format", "hf", "-o", tmp_path / "hf",
                     "--max-shard-size", "300KB")  # fmt: skip
        index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
        files = sorted(set(index["weight_map"].values()))
        assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
        stored = {f: load_file(tmp_path / "hf" / f) for f in files}
        assert index["weight_map"] == {n: f for f, tensors in stored.items() for n in tensors}
        total = sum(t.nbytes for tensors in stored.values() for t in tensors.values())
        assert index["metadata"]["total_size"] == total
        whole = load_file(short_run / "export" / "hf" / "model.safetensors")
        for name, tensor in whole.items():
            numpy.testing.assert_array_equal(stored[index["weight_map"][name]][name], tensor)

    def test_split_gguf(self, commands, wide, tmp_path, data):
        """A model in several files is what the one file is: tensor by tensor, and evaluated by its first."""
        export = ("qat-export", wide, "--format", "gguf", "--ptq", "gguf_q8_0")
        commands.run(*export, "-o", tmp_path / "whole")
        commands.run(*export, "-o", tmp_path / "split", "--split-max-size", "100KB")
        files = sorted((tmp_path / "split").iterdir())
        assert len(files) > 3
        assert [f.name for f in files] == [
            f"wide-Q8_0-{i + 1:05}-of-{len(files):05}.gguf" for i in range(len(files))
        ]
        (whole,) = (tmp_path / "whole").iterdir()
        tensors = {t.name: t.data.tobytes() for t in gguf.GGUFReader(whole).tensors}
        parts = [gguf.GGUFReader(f) for f in files]
        assert {t.name: t.data.tobytes() for part in parts for t in part.tensors} == tensors
        for i, part in enumerate(parts):
            found = {n: part.fields["split." + n].contents() for n in ("no", "count", "tensors.count")}
            assert found == {"no": i, "count": len(files), "tensors.count": len(tensors)}
        text = ("--text", data / "text" / "tinystories_valid.jsonl", "--context", 64,
                "--max-windows", 4, "--json")  # fmt: skip
        one, many = (commands.json("qat-eval", f, *text) for f in (whole, files[0]))
        assert one["perplexity"] == many["perplexity"]
        assert len(commands.json("qat-inspect", files[0], "--json")["files"]) == len(files)
        commands.run("qat-eval", files[1], *text, expect=2)

    def test_a_model_without_a_grid_needs_ptq(self, commands, wide, tmp_path):
        out = tmp_path / "out"
        commands.run("qat-export", wide, "--format", "gptq", "-o", out, expect=2)
        assert not out.exists()
        said = commands.json("qat-export", wide, "--format", "gptq", "-o", out, "--ptq",
                             "gptq_w4_g128", "--json")  # fmt: skip
        assert "PTQ" in said["quantized_by"]
        config = json.loads((out / "config.json").read_text())
        assert "PTQ" in config["quantized_by"]
        assert "PTQ" in config["quantization_config"]["meta"]["quantized_by"]
        # What has codes keeps them, and goes from one format to another with them.
        commands.run("qat-export", out, "--format", "awq", "-o", tmp_path / "x", "--ptq",
                     "awq_w4_g128", expect=2)  # fmt: skip
        commands.run("qat-export", out, "--format", "awq", "-o", tmp_path / "awq")
        assert "PTQ" in json.loads((tmp_path / "awq" / "config.json").read_text())["quantized_by"]
        for module in ("model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"):
            gptq = layer(load_file(out / "model.safetensors"), module)
            assert gptq["scales"].shape[0] == (1 if "up" in module else 2)
            awq = layer(load_file(tmp_path / "awq" / "model.safetensors"), module)
            numpy.testing.assert_array_equal(awq_weight(awq, 128), gptq_weight(gptq, 4, 1))

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--format", "gptq", "--ptq", "w8a8"),  # scales that are not exact in fp16
            ("--format", "awq", "--ptq", "gptq_w8"),  # 8 bits
            ("--format", "compressed-tensors", "--ptq", "ct_w8a8_static"),  # no calibration here
            ("--format", "nonsense"),
            ("--format", "hf", "--max-shard-size", "5 parsecs"),
            ("--format", "gguf", "--split-max-size", "nothing"),
            ("--format", "hf", "--text", "nowhere.txt"),
        ],
    )
    def test_refusals(self, commands, wide, tmp_path, arguments):
        commands.run("qat-export", wide, "-o", tmp_path / "out", *arguments, expect=2)
        assert not list(tmp_path.iterdir())

    def test_run_on_another_grid_is_refused(self, commands, short_run, tmp_path):
        commands.run("qat-export", short_run, "--format", "gptq", "-o", tmp_path / "x", expect=2)

    def test_sizes_that_do_not_fit_are_refused_before_training(self, commands, data, tmp_path):
        done = commands.complete("qat-train", STORIES, "--out", tmp_path / "run", "--set",
                                 "quantize=gptq_w8", "--set", "export=[gptq]", expect=2,
                                 cwd=ROOT)  # fmt: skip
        assert "172" in done.stderr and "multiples of 32" in done.stderr

    def test_an_export_starts_a_run(self, commands, wide, data, tmp_path):
        commands.run("qat-export", wide, "--format", "gptq", "-o", tmp_path / "gptq", "--ptq",
                     "gptq_w8")  # fmt: skip
        run = run_recipe(commands, STORIES, tmp_path / "run", f"model={tmp_path}/gptq",
                         "train.steps=1", "train.batch=1", "train.warmup_bf16=0", "export=[]",
                         "evaluate.max_windows=2", "generate.prompts=[]")  # fmt: skip
        assert (run / "result.json").exists()


class TestInspect:
    def test_every_kind(self, commands, short_run, scheme_run, stories):
        preset, run = scheme_run
        for name in SCHEMES[preset]:
            seen = commands.json("qat-inspect", run / "export" / name, "--json")
            assert seen["kind"] == "Hugging Face directory"
            stored = [t["stored"] for t in seen["tensors"] if t["name"].endswith("q_proj.weight")]
            bits = 8 if "w8" in preset else 4
            assert len(stored) == 5
            assert all(s.startswith("F32" if name == "hf" else f"int{bits} per ") for s in stored)
            files = {f["path"]: f for f in seen["files"]}
            weights = run / "export" / name / "model.safetensors"
            assert files[str(weights)]["bytes"] == weights.stat().st_size
            assert len(files[str(weights)]["xxh3_128"]) == 32
        seen = commands.json("qat-inspect", run, "--json")
        assert seen["kind"] == "run directory" and seen["facts"]["state"] == "complete"
        checkpoint = commands.json("qat-inspect", seen["facts"]["checkpoint"], "--json")
        assert checkpoint["kind"] == "checkpoint" and checkpoint["facts"]["step"] == "2"
        assert "260" in commands.run("qat-inspect", stories)

    def test_gguf(self, commands, smollm2):
        seen = commands.json("qat-inspect", smollm2, "--json")
        assert seen["kind"] == "GGUF file" and 4 < seen["bits_per_weight"] < 9
        assert seen["metadata"]["general.architecture"] == "llama"

    def test_says_what_is_wrong(self, commands, short_run, tmp_path):
        def refused(path):
            done = commands.complete("qat-inspect", path, expect=2, cwd=ROOT)
            assert done.stderr.count("\n") == 1, done.stderr
            return done.stderr

        (tmp_path / "model.bin").write_bytes(b"PK\x03\x04" + bytes(100))
        assert "zip" in refused(tmp_path / "model.bin")
        (tmp_path / "pickle.pt").write_bytes(b"\x80\x02}q\x00.")
        assert "pickle" in refused(tmp_path / "pickle.pt")
        (tmp_path / "empty").write_bytes(b"")
        assert "empty" in refused(tmp_path / "empty")
        (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\n")
        assert "LFS" in refused(tmp_path / "pointer")
        assert "config.json" in refused(tmp_path)
        good = short_run / "export" / "compressed-tensors"
        cut = tmp_path / "cut"
        shutil.copytree(good, cut)
        data = (cut / "model.safetensors").read_bytes()
        (cut / "model.safetensors").write_bytes(data[:-100])
        assert "model.safetensors" in refused(cut)
        tensors = load_file(good / "model.safetensors")
        name = "model.layers.2.mlp.up_proj.weight_scale"
        tensors[name][3] = -1
        save_file(tensors, cut / "model.safetensors", {"format": "pt"})
        assert "up_proj" in refused(cut) and "scale -1" in refused(cut)
        tensors[name][3] = 1
        tensors["model.norm.weight"][7] = numpy.nan
        save_file(tensors, cut / "model.safetensors", {"format": "pt"})
        assert "model.norm.weight" in refused(cut)
        checkpoint = tmp_path / "step"
        shutil.copytree(max((short_run / "checkpoints").iterdir()), checkpoint)
        with open(next(checkpoint.glob("rank-*")), "r+b") as file:
            file.seek(-9, 2)
            file.write(b"x")
        assert "rank-" in refused(checkpoint)


def test_a_gguf_of_a_model_as_it_is(commands, stories, tmp_path):
    said = commands.complete("qat-export", stories, "--format", "gguf", "-o", tmp_path / "no", expect=2,
                             cwd=ROOT).stderr  # fmt: skip
    assert "--ptq none leaves it in 16 bits" in said
    commands.run("qat-export", stories, "--format", "gguf", "-o", tmp_path / "out", "--ptq", "none")
    stored = {t.name: t for t in gguf.GGUFReader(min((tmp_path / "out").glob("*.gguf"))).tensors}
    masters = load_file(stories / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert (stored["blk.0.ffn_up.weight"].data == masters[name].astype(numpy.float16)).all()
    said = commands.complete("qat-export", stories, "--format", "gptq", "-o", tmp_path / "no", "--ptq", "none",
                             expect=2, cwd=ROOT).stderr  # fmt: skip
    assert "gptq files hold codes" in said
