"""Runs build/bin/qat-bench and scripts/bench_peer.py in turn and prints Markdown tables.

Every figure is the median over the rounds; in a round each side runs once, ours first, so that a
change of the machine's speed meets both. The peer runs eager and compiled, and the faster counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"smol135m": (2, 512), "tiny15m": (8, 256)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--modes", nargs="+", default=["bf16", "w8a8", "w8a8+kl", "w4a8"],
                        choices=["bf16", "w8a8", "w8a8+kl", "w4a8"])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a run")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--no-optimizers", action="store_true", help="leave out 8-bit AdamW")
    parser.add_argument("--no-commands", action="store_true", help="leave out --help and tokenizing")
    parser.add_argument("--peer-python", default=str(ROOT / ".venv-peers" / "bin" / "python"))
    parser.add_argument("--bench", default=str(ROOT / "build" / "bin" / "qat-bench"))
    return parser.parse_args()


class Runner:
    """Runs one command, keeps its JSON line and says on stderr what happens."""

    def __init__(self, log: Path):
        self.log = log

    def run(self, call: list[str]) -> dict | None:
        print("  " + " ".join(call), file=sys.stderr, flush=True)
        start = time.time()
        done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
            print(f"  failed with {done.returncode}; left out", file=sys.stderr)
            return None
        result = json.loads(done.stdout.strip().splitlines()[-1])
        result["command"] = " ".join(Path(c).name if "/" in c else c for c in call)
        result["wall_s"] = round(time.time() - start, 1)
        with open(self.log, "a") as file:
            file.write(json.dumps(result) + "\n")
        return result


def machine() -> str:
    fields = {}
    for line in open("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
             if f in fields.get("flags", "").split()]  # fmt: skip
    return f"{fields.get('model name', 'unknown CPU')}, {os.cpu_count()} threads, {' '.join(flags)}"


def median(results: list[dict], key: str) -> float:
    return statistics.median(r[key] for r in results)


def spread(results: list[dict]) -> str:
    values = [r["tokens_per_s"] for r in results]
    digits = ".0f" if max(values) >= 100 else ".1f"
    if len(values) == 1:
        return format(values[0], digits)
    return "%s (%s–%s)" % tuple(
        format(v, digits) for v in (statistics.median(values), min(values), max(values))
    )


def measure(o: argparse.Namespace, runner: Runner) -> dict:
    """(shape, mode) -> {"ours", "eager", "compiled"} -> results of the rounds that worked."""
    found: dict = {}
    for round_number in range(o.rounds):
        print(f"round {round_number + 1} of {o.rounds}", file=sys.stderr, flush=True)
        for shape in o.shapes:
            batch, sequence = SHAPES[shape]
            for mode in o.modes:
                kind, _, kl = mode.partition("+")
                common = ["--shape", shape, "--batch", str(batch), "--sequence", str(sequence),
                          "--mode", kind, "--steps", str(o.steps), "--warmup", str(o.warmup)]  # fmt: skip
                common += ["--kl"] if kl else []
                peer = [o.peer_python, "scripts/bench_peer.py", *common]
                calls = {"ours": [o.bench, *common], "eager": peer}
                if not o.no_compile:
                    calls["compiled"] = [*peer, "--compile"]
                for side, call in calls.items():
                    result = runner.run(call)
                    if result:
                        found.setdefault((shape, mode), {}).setdefault(side, []).append(result)
    return found


def print_steps(found: dict) -> None:
    print("| shape | mode | ours, tok/s | peer eager | peer compiled | ours / best peer "
          "| memory ours | memory best peer |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for (shape, mode), sides in found.items():
        peers = {s: r for s, r in sides.items() if s != "ours"}
        best = max(peers.values(), key=lambda r: median(r, "tokens_per_s"), default=None)
        ours = sides.get("ours")
        ratio = memory_ours = memory_peer = "–"
        if ours and best:
            ratio = "%.2f×" % (median(ours, "tokens_per_s") / median(best, "tokens_per_s"))
        if ours:
            memory_ours = "%.2f GB" % (median(ours, "peak_memory_bytes") / 1e9)
        if best:
            memory_peer = "%.2f GB" % (median(best, "peak_memory_bytes") / 1e9)
        cells = [spread(sides[s]) if s in sides else "–" for s in ("ours", "eager", "compiled")]
        batch, sequence = SHAPES[shape]
        print(f"| {shape} {batch}×{sequence} | {mode} | {' | '.join(cells)} | {ratio} "
              f"| {memory_ours} | {memory_peer} |")  # fmt: skip


def optimizers(o: argparse.Namespace, runner: Runner) -> None:
    """8-bit AdamW of the 135M shape: milliseconds of the optimizer alone in a short step."""
    common = ["--shape", "smol135m", "--batch", "1", "--sequence", "32", "--mode", "bf16",
              "--steps", str(min(o.steps, 5)), "--warmup", str(o.warmup)]  # fmt: skip
    peer = [o.peer_python, "scripts/bench_peer.py", *common, "--optimizer"]
    rows = {
        "ours, 8-bit": [o.bench, *common, "--state-bits", "8"],
        "ours, fp32 states": [o.bench, *common, "--state-bits", "32"],
        "bitsandbytes, 8-bit": [*peer, "bitsandbytes8"],
        "torchao, 8-bit": [*peer, "torchao8"],
        "PyTorch fused AdamW, bf16": [*peer, "adamw"],
    }
    print("\n| AdamW step of the 135M shape | ms |\n|---|---|")
    for name, call in rows.items():
        result = runner.run(call)
        if result:
            print("| %s | %.0f |" % (name, result.get("optimizer_ms", float("nan"))))


TOKENIZE = """
import json, sys, time
start = time.perf_counter()
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
texts = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8")]
count = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
print(json.dumps(dict(who="tokenizers", tokens=count, seconds=time.perf_counter() - start)))
"""


def commands_alone(o: argparse.Namespace, runner: Runner) -> None:
    """Wall time of whole commands: --help, and tokenizing about 10 MB on one thread."""
    folder = Path(o.bench).parent
    rows = []
    for name in ("qat-train", "qat-eval", "qat-generate", "qat-tokenize"):
        times = []
        for _ in range(10):
            start = time.perf_counter()
            done = subprocess.run([folder / name, "--help"], capture_output=True)
            times.append(time.perf_counter() - start)
            if done.returncode:
                break
        else:
            rows.append((f"`{name} --help`", "%.0f ms" % (statistics.median(times) * 1e3)))
    gguf = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    text = ROOT / ".cache" / "jargon" / "train.txt"
    if not gguf.is_file() or not text.is_file():
        print("scripts/fetch model and text bring what the tokenizers are timed on", file=sys.stderr)
    else:
        records = ROOT / ".cache" / "benchmark.jsonl"
        entries = text.read_text(encoding="utf-8").split("\n\n:")
        with open(records, "w", encoding="utf-8") as file:
            for copy in range(8):  # 8 copies are about 10 MB; each names its copy, so none repeats whole
                for entry in entries:
                    file.write(json.dumps({"text": f"{copy} :{entry}"}, ensure_ascii=False) + "\n")
        subprocess.run([o.peer_python, "scripts/gguf_to_hf.py", gguf, gguf.parent / "hf"],
                       check=True, cwd=ROOT)  # fmt: skip
        size = records.stat().st_size / 1e6
        single = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        for name, call in {
            "`qat-tokenize`": [folder / "qat-tokenize", gguf, records],
            "`tokenizers`, in Python": [o.peer_python, "-c", TOKENIZE,
                                        gguf.parent / "hf" / "tokenizer.json", records],
        }.items():  # fmt: skip
            times = []
            for _ in range(o.rounds):
                start = time.perf_counter()
                done = subprocess.run(call, stdout=subprocess.DEVNULL, env=single, cwd=ROOT)
                times.append(time.perf_counter() - start)
            if done.returncode == 0:
                seconds = statistics.median(times)
                rows.append((f"{name}, {size:.1f} MB, start to end", "%.2f s" % seconds))
                with open(runner.log, "a") as file:
                    file.write(json.dumps({"command": name, "megabytes": size, "seconds": times}) + "\n")
        records.unlink()
    print("\n| command | wall time |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def main() -> int:
    o = arguments()
    if not Path(o.peer_python).exists():
        print(f"{o.peer_python} is missing; scripts/benchmarks makes it", file=sys.stderr)
        return 2
    folder = ROOT / "runs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / time.strftime("%Y%m%d-%H%M%S.jsonl")
    runner = Runner(log)
    found = measure(o, runner)
    versions = subprocess.run(
        [o.peer_python, "-c", "import torch, torchao, transformers as t;"
         "print(f'torch {torch.__version__}, torchao {torchao.__version__}, transformers {t.__version__}')"],
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True, cwd=ROOT).stdout.strip()  # fmt: skip
    print(f"{machine()}; {versions}; commit {commit}; {o.rounds} rounds of {o.steps} steps, median "
          f"(lowest–highest)\n")  # fmt: skip
    print_steps(found)
    if not o.no_optimizers:
        optimizers(o, runner)
    if not o.no_commands:
        commands_alone(o, runner)
    print(f"\nraw lines: {log.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
