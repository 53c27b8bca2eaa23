"""Perplexity and size of GGUF files in llama.cpp itself, beside what its own quantizer makes of an
unquantized one; prints a Markdown table.

    QAT_TEST_DATA=... build/bin/qat-train recipes/pretrain-tiny-256.yaml
    QAT_TEST_DATA=... build/bin/qat-train recipes/tiny-gguf-q4_k.yaml
    .venv-peers/bin/python scripts/gguf_peer.py --source runs/pretrain-tiny-256/export/gguf \\
        --quantize Q4_K_M Q4_K_S --text DATA/text/tinystories_valid.jsonl \\
        runs/tiny-gguf-q4_k/export/gguf
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "peers"))

from llama_cpp import LlamaCpp, quantize_file  # noqa: E402
from reference import mean_kl, perplexity, read_text  # noqa: E402


def file_of(path: Path) -> Path:
    return path if path.is_file() else min(path.glob("*.gguf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", help="GGUF files, or folders that hold one")
    parser.add_argument("--source", type=Path, required=True, help="the unquantized model")
    parser.add_argument("--quantize", nargs="*", default=[], choices=["Q4_0", "Q4_K_M", "Q4_K_S"])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--windows", type=int, default=64)
    o = parser.parse_args()
    source = file_of(o.source)
    with tempfile.TemporaryDirectory() as folder:
        rows = [("source, " + source.stem.rsplit("-", 1)[-1], source)]
        for name in o.quantize:
            made = Path(folder) / f"{name}.gguf"
            quantize_file(source, made, name)
            rows.append((f"llama.cpp's {name} of it", made))
        rows += [(f"{f.parent.parent.parent.name}", f) for f in map(file_of, o.files)]
        print("| file | MB | perplexity | KL to the source |\n| --- | --- | --- | --- |")
        wanted = None
        for name, file in rows:
            with LlamaCpp(file, context=max(512, o.context)) as model:
                tokens = model.tokens(read_text(o.text))
                count = min(len(tokens) // o.context, o.windows)
                ids = torch.tensor(tokens[: count * o.context]).view(count, o.context)
                logits = model.logits(ids)
            wanted = logits if wanted is None else wanted
            print(f"| {name} | {file.stat().st_size / 1e6:.3f} | {perplexity(logits, ids):.4f} "
                  f"| {mean_kl(wanted, logits):.2e} |", flush=True)  # fmt: skip
        scored = count * (o.context - 1)
    print(f"\n{scored} scored tokens, windows of {o.context}")


if __name__ == "__main__":
    main()
