"""Runs the parts of scripts/gpu-check one after the other; writes their results as one JSON file.

Every part has a share of the time; one that does not end in it is stopped and counts as failed, and
the others still run. Exits with 1 if a part failed, with 2 where there is no GPU.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

BENCHES = [
    ["--mode", "bf16", "--batch", "32", "--micro-batch", "8"],
    ["--mode", "w8a8", "--batch", "32", "--micro-batch", "8"],
    ["--mode", "w8a8", "--batch", "32", "--micro-batch", "8", "--state-bits", "8", "--kl"],
]
# initcheck wants to see every allocation filled: poisoned outputs are what it would miss.
SANITIZERS = ["memcheck", "racecheck", "initcheck"]


class Check:
    def __init__(self, programs: Path, seconds: float):
        self.programs = programs
        self.end = time.monotonic() + seconds
        self.parts: list[dict] = []

    def run(self, name: str, command: list[str], limit: float) -> str:
        """Output of a part; its result is kept."""
        limit = max(5.0, min(limit, self.end - time.monotonic()))
        start = time.monotonic()
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit
            )
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as expired:
            code = 124
            output = expired.stdout or ""
            output = output.decode() if isinstance(output, bytes) else output
        except OSError as error:
            code, output = 127, str(error)
        part = {
            "name": name,
            "command": " ".join(command),
            "exit_code": code,
            "seconds": round(time.monotonic() - start, 2),
            "output": output[-6000:],
        }
        self.parts.append(part)
        word = "ok" if code == 0 else f"FAILED ({code})"
        print(f"{name:24} {word:14} {part['seconds']} s", flush=True)
        return output if code == 0 else ""

    def tests(self, name: str, program: str, pattern: str, limit: float) -> None:
        output = self.run(name, [str(self.programs / program), f"--gtest_filter={pattern}"], limit)
        # A test that skipped proves nothing here.
        if "[  SKIPPED ]" in output or "[  PASSED  ] 0 tests" in output:
            self.parts[-1]["exit_code"] = 1
            print(f"{name:24} skipped: no proof", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check.json"))
    parser.add_argument("--seconds", type=float, default=540.0)
    options = parser.parse_args()
    check = Check(options.programs, options.seconds)
    card = check.run(
        "card",
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        30,
    )
    if not card:
        print("gpu-check: no GPU answers", file=sys.stderr)
        return 2
    check.tests("cases", "test_cuda", "*Device*:CudaBackend*", 150)
    check.tests("golden step", "test_models", "*OnTheGpu*", 60)
    benches = []
    for arguments in BENCHES:
        output = check.run(
            "bench " + " ".join(arguments[1:2] + arguments[6:]),
            [str(options.programs / "qat-bench"), "--backend", "cuda", "--steps", "5", *arguments],
            60,
        )
        lines = [line for line in output.splitlines() if line.startswith("{")]
        benches += [json.loads(line) for line in lines]
    if shutil.which("compute-sanitizer"):
        for tool in SANITIZERS:
            families = "*Device*/Elementwise:*Device*/Rows:*Device*/Optimizer:*Device*/Attention"
            check.run(
                f"sanitizer {tool}",
                ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9",
                 str(options.programs / "test_cuda"), f"--gtest_filter={families}"],
                110,
            )
    else:
        check.parts.append({"name": "sanitizer", "exit_code": 1, "output": "no compute-sanitizer"})
    failed = [part["name"] for part in check.parts if part["exit_code"] != 0]
    result = {"card": card.strip(), "date": time.strftime("%Y-%m-%d"), "failed": failed,
              "benches": benches, "parts": check.parts}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for line in benches:
        rate, peak = line["gflops"] / 1e3, line["peak_gflops"] / 1e3
        print(f"{line['mode']:6} {line['tokens_per_s']:.0f} tok/s  {rate:.1f} TFLOP/s of {peak:.1f}")
    print(f"{options.out}: {len(check.parts) - len(failed)} parts passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
