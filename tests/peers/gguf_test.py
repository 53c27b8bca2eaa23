"""llama.cpp runs the GGUF files we export and computes what we compute."""

import json
import shutil
import unicodedata

import numpy
import pytest
import torch
from conftest import ROOT, run_recipe
from gguf import GGMLQuantizationType, GGUFReader, dequantize, quantize
from llama_cpp import LlamaCpp, ggml_quantize, quantize_file
from reference import as_llama_cpp_computes, load, logits, mean_kl, perplexity, windows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

STORIES = ROOT / "recipes" / "stories-w8a8.yaml"
GOLDEN = ROOT / "tests" / "tokenizer" / "golden"
CONTEXT, WINDOWS = 128, 160


def exported(run):
    files = list((run / "export" / "gguf").iterdir())
    assert len(files) == 1
    return files[0]


def quantized_stories(commands, out, preset, steps):
    warmup = min(steps, 4)
    return run_recipe(
        commands, STORIES, out, f"quantize.preset={preset}", f"train.steps={steps}",
        f"train.warmup_bf16={warmup}", f"train.schedule.warmup={warmup}", "train.enable.every=3",
        "evaluate.max_windows=12", "export=[gguf,hf]",
    )  # fmt: skip


@pytest.fixture(scope="module", params=["gguf_q4_0", "gguf_q8_0", "gguf_q4_1", "portable_w4"])
def run(request, commands, data, tmp_path_factory):
    """stories260k on the grid: trained for Q4_0, put there without a step for the others."""
    out = tmp_path_factory.mktemp("runs") / request.param
    return quantized_stories(commands, out, request.param, 24 if request.param == "gguf_q4_0" else 0)


@pytest.fixture(scope="module")
def ids(stories, data):
    return windows(stories, data / "text" / "tinystories_valid.jsonl", CONTEXT, WINDOWS)


def with_f16_cache(model):
    """Keys and values rounded to f16, as llama.cpp's cache holds them (keys before RoPE here)."""
    for name, module in model.named_modules():
        if name.endswith(("k_proj", "v_proj")):
            module.register_forward_hook(lambda module, inputs, out: out.half().float())
    return model


def test_llama_cpp_computes_our_forward(run, commands, ids, data):
    """In a model of 64 channels one flipped code of an activation moves the logits as much as quantizing it
    did, so a cache in f16 alone takes our own forward 6e-4 from itself; llama.cpp must be no farther. That
    is 0.035 nats a token: the perplexities agree to 0.1% over many of them."""
    ours = logits(as_llama_cpp_computes(run / "export" / "hf"), ids)
    noise = mean_kl(ours, logits(with_f16_cache(as_llama_cpp_computes(run / "export" / "hf")), ids))
    with LlamaCpp(exported(run)) as peer:
        theirs = peer.logits(ids)
    print(f"KL {mean_kl(ours, theirs):.2e}, by the f16 cache alone {noise:.2e}")
    assert mean_kl(ours, theirs) <= max(1e-4, 1.25 * noise)
    assert perplexity(theirs, ids) == pytest.approx(perplexity(ours, ids), rel=1e-3)
    if "portable" not in run.name:  # which is trained without the activations of a runtime
        text = data / "text" / "tinystories_valid.jsonl"
        said = commands.json("qat-eval", run, "--text", text, "--context", CONTEXT,
                             "--max-windows", WINDOWS, "--json")  # fmt: skip
        assert said["perplexity"] == pytest.approx(perplexity(theirs, ids), rel=1e-3)


def test_the_codes_are_the_trained_ones(run):
    """ggml's Python decoder finds the very values of the on-grid Hugging Face export."""
    on_grid = load_file(run / "export" / "hf" / "model.safetensors")
    wanted = {"gguf_q8_0": "Q8_0", "gguf_q4_1": "Q4_1"}.get(run.name, "Q4_0")
    types = {}
    for tensor in GGUFReader(exported(run)).tensors:
        types[tensor.name] = tensor.tensor_type.name
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
        if "attn_q" in tensor.name or "attn_k" in tensor.name:
            values = values.reshape(-1, 4, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        expected = on_grid[huggingface_name(tensor.name)].numpy()
        if tensor.tensor_type == GGMLQuantizationType.F16:
            expected = expected.astype(numpy.float16).astype(numpy.float32)
        numpy.testing.assert_array_equal(values, expected, err_msg=tensor.name)
    assert {types[f"blk.{i}.{n}.weight"] for i in range(5) for n in ("attn_q", "attn_output", "ffn_up")} == {wanted}
    # 172 columns: not a multiple of 32, so F16 as llama.cpp's own quantizer would.
    assert {types[f"blk.{i}.ffn_down.weight"] for i in range(5)} == {"F16"}
    assert types["token_embd.weight"] == ("F16" if "portable" in run.name else "Q8_0")


def huggingface_name(name: str) -> str:
    for theirs, ours in {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "blk": "model.layers",
                         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
                         "attn_output": "self_attn.o_proj", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
                         "attn_v": "self_attn.v_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
                         "ffn_down": "mlp.down_proj"}.items():  # fmt: skip
        name = name.replace(theirs + ".", ours + ".")
    return name


def test_fallbacks_are_listed(commands, tmp_path, data):
    said = commands.said("qat-train", STORIES, "--out", tmp_path / "dry", "--dry-run",
                         "--set", "quantize.preset=gguf_q4_0", "--set", "export=[gguf]")  # fmt: skip
    for layer in range(5):
        assert f"model.layers.{layer}.mlp.down_proj: 172 columns do not divide into blocks of 32" in said
    assert "embeddings and tied head: Q8_0" in said
    assert "quantized: 30 of 35 linears, gguf_q4_0:" in said


def test_greedy_text_is_the_same(commands, stories, tmp_path_factory, data):
    run = quantized_stories(commands, tmp_path_factory.mktemp("runs") / "greedy", "gguf_q8_0", 0)
    prompt = "Once upon a time, there was a little girl"
    ours = commands.run("qat-generate", run, "--prompt", prompt, "--max-tokens", 60).strip()
    with LlamaCpp(exported(run)) as peer:
        start = peer.tokens(prompt, special=True)
        theirs = peer.text(start[1:] + peer.greedy(start, 60, {2})).strip()
    assert theirs == ours


FAMILIES = {
    "llama": (LlamaConfig, {}),
    "llama3": (LlamaConfig, {"rope_theta": 10000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}),
    "linear": (LlamaConfig, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": False}),
    "qwen3": (Qwen3Config, {"head_dim": 32}),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(FAMILIES))
def made_up(request, stories, tmp_path_factory):
    """A small model with weights large enough that attention and positions matter."""
    kind, more = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("models") / request.param
    options = dict(hidden_size=128, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                   num_key_value_heads=2, vocab_size=512, max_position_embeddings=256,
                   tie_word_embeddings=True, bos_token_id=1, eos_token_id=2) | more  # fmt: skip
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(kind(**options)).float()
    for name, parameter in model.named_parameters():
        scale = 0.3 if "bias" in name else 0.03 if "embed" in name or "lm_head" in name else 0.1
        if parameter.dim() == 2 or "bias" in name:
            torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stories / name, folder)
    return folder


def export_made_up(commands, made_up, out, preset):
    return run_recipe(
        commands, STORIES, out, f"model={made_up}", f"quantize.preset={preset}", "train.steps=0",
        "train.warmup_bf16=0", "train.schedule.warmup=0", "evaluate.max_windows=4", "generate={prompts: []}",
        "export=[gguf,hf]",
    )  # fmt: skip


def test_families_unquantized(made_up, commands, data, tmp_path):
    """Names, row order, biases, norms and positions: without a grid the two agree as floats do."""
    out = export_made_up(commands, made_up, tmp_path / "run", "none")
    ids = windows(made_up, data / "text" / "tinystories_valid.jsonl", CONTEXT, 4)
    ours = logits(load(made_up), ids)
    with LlamaCpp(exported(out)) as peer:
        theirs = peer.logits(ids)
    assert mean_kl(ours, theirs) <= 2e-6
    # And what a token is makes a difference to those behind it.
    assert mean_kl(ours[:, 1:], logits(load(made_up), ids[:, 1:])) > 1e-3


def test_families_quantized(made_up, commands, data, tmp_path):
    out = export_made_up(commands, made_up, tmp_path / "run", "gguf_q4_0")
    text = data / "text" / "tinystories_valid.jsonl"
    ids = windows(made_up, text, CONTEXT, 4)
    ours = logits(as_llama_cpp_computes(out / "export" / "hf"), ids)
    with LlamaCpp(exported(out)) as peer:
        theirs = peer.logits(ids)
    assert mean_kl(ours, theirs) <= 1e-4
    assert perplexity(theirs, ids) == pytest.approx(perplexity(ours, ids), rel=1e-3)
    said = commands.json("qat-eval", out, "--text", text, "--context", CONTEXT, "--max-windows", 4, "--json")
    assert said["perplexity"] == pytest.approx(perplexity(theirs, ids), rel=1e-3)


@pytest.fixture(scope="module")
def wide(stories, tmp_path_factory):
    """A model whose rows super-blocks of 256 divide, but for those of down_proj."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(LlamaConfig(
        hidden_size=256, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        initializer_range=0.08,
    )).float()  # fmt: skip
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.03)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stories / name, folder)
    return folder


@pytest.mark.parametrize("preset", ["gguf_q4_k", "gguf_q6_k"])
def test_k_types(preset, commands, wide, data, tmp_path):
    """Super-blocks as they were chosen by us: the values that ggml decodes are those of the on-grid export,
    and llama.cpp computes our forward with them. down_proj, of 96 columns, falls back as its own quantizer
    does."""
    out = export_made_up(commands, wide, tmp_path / "run", preset)
    on_grid = load_file(out / "export" / "hf" / "model.safetensors")
    types = {}
    for tensor in GGUFReader(exported(out)).tensors:
        types[tensor.name] = tensor.tensor_type.name
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
        if "attn_q" in tensor.name or "attn_k" in tensor.name:
            values = values.reshape(-1, 32, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        numpy.testing.assert_array_equal(values, on_grid[huggingface_name(tensor.name)].numpy(), err_msg=tensor.name)
    wanted, fallback = ("Q4_K", "Q5_0") if preset == "gguf_q4_k" else ("Q6_K", "Q8_0")
    assert types["blk.0.attn_q.weight"] == types["blk.2.ffn_up.weight"] == wanted
    assert types["blk.1.ffn_down.weight"] == fallback and types["token_embd.weight"] == "Q6_K"
    text = data / "text" / "tinystories_valid.jsonl"
    ids = windows(wide, text, CONTEXT, 16)
    said = commands.json("qat-eval", out, "--text", text, "--context", CONTEXT, "--max-windows", 16, "--json")
    file = commands.json("qat-eval", exported(out), "--text", text, "--context", CONTEXT, "--max-windows", 16, "--json")
    with LlamaCpp(exported(out)) as peer:
        theirs = peer.logits(ids)
    assert said["perplexity"] == pytest.approx(perplexity(theirs, ids), rel=1e-3)
    assert file["perplexity"] == pytest.approx(perplexity(theirs, ids), rel=1e-3)


def test_llama_cpp_runs_a_split_model(commands, wide, data, tmp_path):
    export = ("qat-export", wide, "--format", "gguf", "--ptq", "gguf_q8_0", "-o")
    commands.run(*export, tmp_path / "whole")
    commands.run(*export, tmp_path / "split", "--split-max-size", "300KB")
    files = sorted((tmp_path / "split").iterdir())
    assert len(files) > 2
    ids = windows(wide, data / "text" / "tinystories_valid.jsonl", CONTEXT, 2)
    with LlamaCpp(next((tmp_path / "whole").iterdir())) as whole, LlamaCpp(files[0]) as split:
        assert torch.equal(whole.logits(ids), split.logits(ids))


def test_k_types_of_others(commands, wide, data, tmp_path):
    """A file that llama.cpp quantized itself is evaluated as llama.cpp computes it, and goes on with its
    codes into a file of ours."""
    source = export_made_up(commands, wide, tmp_path / "run", "none")
    quantize_file(exported(source), tmp_path / "theirs.gguf", "Q4_K_M")
    assert {"Q4_K", "Q6_K"} <= {t.tensor_type.name for t in GGUFReader(tmp_path / "theirs.gguf").tensors}
    text = data / "text" / "tinystories_valid.jsonl"
    ids = windows(wide, text, CONTEXT, 16)
    with LlamaCpp(tmp_path / "theirs.gguf") as peer:
        theirs = perplexity(peer.logits(ids), ids)
    commands.run("qat-export", tmp_path / "theirs.gguf", "--format", "gguf", "-o", tmp_path / "again")
    for file in (tmp_path / "theirs.gguf", next((tmp_path / "again").iterdir())):
        said = commands.json("qat-eval", file, "--text", text, "--context", CONTEXT, "--max-windows", 16, "--json")
        assert said["perplexity"] == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "smollm", "qwen2", "llama3", "llama2"])
def test_tokens(name, commands, data, tmp_path):
    """llama.cpp's ids of texts that are hard to split, with the tokenizer as we wrote it."""
    out = run_recipe(
        commands, ROOT / "recipes" / "pretrain-tiny.yaml", tmp_path / "run", f"model.tokenizer={GOLDEN / name}",
        "model.hidden_size=32", "model.intermediate_size=32", "model.num_hidden_layers=1", "train.steps=0",
        "model.num_attention_heads=1", "model.num_key_value_heads=1", "train.warmup_bf16=0", "train.schedule.warmup=0",
        "train.schedule.kind=constant", "data.eval=[]", "evaluate=[]", "generate={prompts: []}", "quantize=none",
        "export=[gguf]",
    )  # fmt: skip
    cases = json.loads((GOLDEN / name / "expected.json").read_text())["cases"]
    with LlamaCpp(exported(out)) as peer:
        for case in cases:
            # Added tokens with lstrip, rstrip or single_word, which llama.cpp does not know.
            if not case["text"] or any(part in case["text"] for part in ("\0", "lead", "tail", "wordy")):
                continue
            # llama.cpp does not normalize; Qwen2's tokenizer does, to NFC.
            if name == "qwen2" and not unicodedata.is_normalized("NFC", case["text"]):
                continue
            assert peer.tokens(case["text"]) == case["ids"], repr(case["text"])


def test_refusals_name_key_and_line(commands, stories, data, tmp_path):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(
        f"model: {stories}\nout: {tmp_path}/out\ndata: {{train: [{data}/text/tinystories_train.jsonl]}}\n"
        "quantize:\n  preset: w8a8\ntrain: {steps: 4}\nexport: [gguf]\n"
    )
    done = commands.complete("qat-train", recipe, expect=2, cwd=ROOT)
    assert "quantize.weights.scale_type" in done.stderr and "f16 or portable" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_encoders_give_ggmls_bytes(name, commands, stories, data, tmp_path):
    """With ggml's rounding rule and no training, every block is the one ggml's quantizer writes: that of the
    C library, and that of gguf's Python."""
    out = run_recipe(
        commands, STORIES, tmp_path / "run", f"quantize.preset=gguf_{name.lower()}", "train.steps=0",
        "quantize.weights.rounding=ggml", "train.warmup_bf16=0", "train.schedule.warmup=0", "data.eval=[]",
        "evaluate=[]", "generate={prompts: []}", "export=[gguf]",
    )  # fmt: skip
    source = load_file(stories / "model.safetensors")
    compared = 0
    for tensor in GGUFReader(exported(out)).tensors:
        kind = tensor.tensor_type
        if kind.name not in ("Q8_0", "Q4_0", "Q4_1"):
            continue
        weight = source[huggingface_name(tensor.name)].float().numpy()
        if "attn_q" in tensor.name or "attn_k" in tensor.name:
            weight = weight.reshape(-1, 2, 4, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
        block = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind.name]
        assert tensor.data.tobytes() == ggml_quantize(kind.value, weight, block), tensor.name
        assert tensor.data.tobytes() == quantize(weight, kind).tobytes(), tensor.name
        compared += kind.name == name
    assert compared >= 30
