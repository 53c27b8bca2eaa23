"""One training on portable_w4, each of its files as its own runtime computes it: GGUF in llama.cpp,
compressed-tensors in transformers, GPTQ in gptqmodel; beside the unquantized model, llama.cpp's own Q4_0
of that, and llama.cpp's Q4_0 of the trained masters. Prints a Markdown table.

    QAT_TEST_DATA=... build/bin/qat-train recipes/smollm2-portable-w4.yaml
    .venv-peers/bin/python scripts/portable_peer.py --text DATA/text/wikitext2_raw_test_a.txt
"""

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "peers"))

from gptqmodel import BACKEND, GPTQModel  # noqa: E402
from llama_cpp import LlamaCpp, quantize_file  # noqa: E402
from reference import load, windows  # noqa: E402


def export(model: Path, form: str, out: Path, dtype: str) -> Path:
    command = [ROOT / "build" / "bin" / "qat-export", model, "--format", form, "-o", out, "--dtype", dtype]
    command += ["--ptq", "none"] if form == "gguf" else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return min(out.glob("*.gguf")) if form == "gguf" else out


@torch.no_grad()
def perplexity(logits_of: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor) -> float:
    """Of windows [count, context], one at a time; the first token of each is not scored."""
    total = 0.0
    for row in ids:
        log_probabilities = torch.log_softmax(logits_of(row)[:-1].double(), -1)
        total -= log_probabilities.gather(-1, row[1:, None]).sum().item()
    return math.exp(total / (ids.shape[0] * (ids.shape[1] - 1)))


def in_llama_cpp(file: Path, ids: torch.Tensor, text: str) -> float:
    with LlamaCpp(file, context=ids.shape[1]) as model:
        theirs = model.tokens(text)[: ids.numel()]
        assert theirs == ids.flatten().tolist(), f"{file}: llama.cpp reads other tokens"
        return perplexity(lambda row: model.feed(row.tolist()), ids)


def in_transformers(folder: Path, ids: torch.Tensor) -> float:
    model = load(folder, dtype=torch.bfloat16)
    return perplexity(lambda row: model(row[None]).logits[0], ids)


def in_gptqmodel(folder: Path, ids: torch.Tensor) -> float:
    loaded = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16)
    with torch.compiler.set_stance("force_eager"):
        return perplexity(lambda row: loaded.model(row[None]).logits[0], ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gguf = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    parser.add_argument("--source", type=Path, default=gguf, help="the model before training")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "smollm2-portable-w4")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=40)
    o = parser.parse_args()
    exports = o.run / "export"
    ids = windows(exports / "hf-master", o.text, o.context, o.windows)
    text = o.text.read_text(encoding="utf-8")
    print("| model | runtime | perplexity |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        plain = export(o.source, "hf", place / "plain", "fp32")  # its file may hold codes
        source = export(plain, "gguf", place / "source", "fp16")
        masters = export(exports / "hf-master", "gguf", place / "masters", "bf16")
        quantize_file(source, place / "source-q4_0.gguf", "Q4_0")
        quantize_file(masters, place / "masters-q4_0.gguf", "Q4_0")
        trained = min((exports / "gguf").glob("*.gguf"))
        for model, runtime, measure in (
            ("source, F16", "llama.cpp", lambda: in_llama_cpp(source, ids, text)),
            ("source, bf16", "transformers",
             lambda: in_transformers(plain, ids)),
            ("llama.cpp's Q4_0 of the source", "llama.cpp",
             lambda: in_llama_cpp(place / "source-q4_0.gguf", ids, text)),
            ("trained, in bf16, llama.cpp's Q4_0 of it", "llama.cpp",
             lambda: in_llama_cpp(place / "masters-q4_0.gguf", ids, text)),
            ("trained, GGUF Q4_0", "llama.cpp", lambda: in_llama_cpp(trained, ids, text)),
            ("trained, compressed-tensors W4A16", "transformers",
             lambda: in_transformers(exports / "compressed-tensors", ids)),
            ("trained, GPTQ", "gptqmodel", lambda: in_gptqmodel(exports / "gptq", ids)),
        ):  # fmt: skip
            print(f"| {model} | {runtime} | {measure():.3f} |", flush=True)
    print(f"\n{ids.shape[0] * (ids.shape[1] - 1)} scored tokens, windows of {o.context}")


if __name__ == "__main__":
    main()
