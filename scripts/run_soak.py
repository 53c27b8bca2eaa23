"""Kills runs of stories260k at random moments until so many rounds are done, and counts wrong bits.

A round is one start of the run that is killed. A run that was killed is started again, until one
start of it comes to its end; then its weights, moments and metrics are compared with those of the
same run left alone, and the next run begins. Moments are drawn from a seed; what they meet depends
on the machine. An interrupt (SIGINT) ends it with what was found so far.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",  # containers forbid it, loudly
    "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
}
WAYS = {  # ranks, who is killed
    "one process": (1, "all"),
    "2 ranks, all killed": (2, "all"),
    "2 ranks, one killed": (2, "one"),
}
SETTINGS = (
    "train.warmup_bf16=20", "train.enable.every=10", "checkpoint.keep=2", "train.watchdog=0",
    "evaluate.max_windows=4", "generate.prompts=[]", "export=[hf-master]",
)  # fmt: skip
SAME = ("step", "loss", "cross_entropy", "kl", "lr", "grad_norm", "tokens", "enabled_layers", "skipped")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--kills", type=float, default=5, help="of a run, about")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--bin", type=Path, default=ROOT / "build" / "bin")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "soak")
    return parser.parse_args()


class Run:
    """One run of the recipe in a folder of its own, started as often as it takes."""

    def __init__(self, o: argparse.Namespace, ranks: int, out: Path):
        self.out, self.said = out, out.with_suffix(".log")
        shutil.rmtree(out, ignore_errors=True)
        self.said.unlink(missing_ok=True)
        mpirun = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        settings = (f"train.steps={o.steps}", f"checkpoint.every={o.every}", *SETTINGS, *o.set)
        self.call = [
            *(mpirun if ranks > 1 else []), str(o.bin / "qat-train"),
            str(ROOT / "recipes" / "stories-w8a8.yaml"), "--out", str(out),
            *(part for setting in settings for part in ("--set", setting)),
        ]  # fmt: skip
        self.ranks = ranks

    def start(self) -> subprocess.Popen:
        with open(self.said, "ab") as log:
            return subprocess.Popen(self.call, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)

    def processes(self, started: subprocess.Popen) -> list[int]:
        if self.ranks == 1:
            return [started.pid]
        try:
            text = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split()]

    def steps(self) -> int:
        path = self.out / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def text(self) -> str:
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def saving(self) -> bool:
        return any((self.out / "checkpoints").glob("step-*.tmp-*"))


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_for_end(pids: list[int]) -> None:
    """The next start would find the output directory held by a rank that is still ending."""
    for pid in pids:
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.01)


def tensors_of(run: Path) -> dict[str, bytes]:
    """What the last checkpoint holds, header aside (it names the run), and the exported weights."""
    newest = max((run / "checkpoints").glob("step-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
    found = {}
    for path in sorted(newest.glob("rank-*.bin")):
        data = path.read_bytes()
        found[path.name] = data[int.from_bytes(data[24:32], "little") :]
    found["export"] = (run / "export" / "hf-master" / "model.safetensors").read_bytes()
    return found


def wrong_bits(first: Path, second: Path) -> int:
    one, other = tensors_of(first), tensors_of(second)
    bits = 0
    for name in one.keys() | other.keys():
        a, b = one.get(name, b""), other.get(name, b"")
        bits += 8 * abs(len(a) - len(b))
        if a != b:
            bits += sum((x ^ y).bit_count() for x, y in zip(a, b))
    return bits


def different_steps(first: Path, second: Path) -> int:
    one, other = (
        [[json.loads(line)[key] for key in SAME] for line in open(run / "metrics.jsonl", encoding="utf-8")]
        for run in (first, second)
    )
    return sum(a != b for a, b in zip(one, other)) + abs(len(one) - len(other))


def alone(o: argparse.Namespace, ranks: int) -> tuple[Path, float]:
    run = Run(o, ranks, o.folder / f"alone-{ranks}")
    start = time.monotonic()
    if run.start().wait() != 0:
        raise SystemExit(f"the run that was left alone failed:\n{run.text()[-3000:]}")
    return run.out, time.monotonic() - start


class Soak:
    def __init__(self, o: argparse.Namespace):
        self.o, self.random = o, random.Random(o.seed)
        self.counts = {way: dict(rounds=0, in_a_save=0, runs=0, steps_lost=0, wrong_bits=0, wrong_steps=0)
                       for way in o.ways}  # fmt: skip
        self.undisturbed = {ranks: alone(o, ranks) for ranks in {WAYS[way][0] for way in o.ways}}

    def start_once(self, run: Run, way: str, seconds: float | None) -> bool:
        """One start, killed within so many seconds unless it ends before. True if it came to its end."""
        _, who = WAYS[way]
        reached, heard = run.steps(), len(run.text())
        started = run.start()
        try:
            code = started.wait(seconds and self.random.uniform(0, seconds))
        except KeyboardInterrupt:
            kill([*run.processes(started), started.pid])
            raise
        except subprocess.TimeoutExpired:
            pids = run.processes(started)
            self.counts[way]["in_a_save"] += run.saving()
            kill([self.random.choice(pids)] if who == "one" and pids else [*pids, started.pid])
            code = started.wait()
            wait_for_end(pids)
        text = run.text()[heard:]
        if found := re.search(r"resuming from .* at step (\d+)", text):
            self.counts[way]["steps_lost"] += reached - int(found[1])
        elif "started in " in text:
            self.counts[way]["steps_lost"] += reached
        if code == 0:
            return True
        # mpirun tells of a rank's signal, or that it was killed itself.
        killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL, 1) or (who == "one" and code == 6)
        if seconds is None or not killed:
            raise SystemExit(f"{way}: ended with {code}\n{text[-3000:]}")
        self.counts[way]["rounds"] += 1
        return False

    def live(self, way: str, number: int) -> None:
        """One run, through kills to its end."""
        ranks, _ = WAYS[way]
        reference, longest = self.undisturbed[ranks]
        counts = self.counts[way]
        run = Run(self.o, ranks, self.o.folder / f"killed-{ranks}")
        while self.rounds_left() > 0:
            if self.start_once(run, way, 2 * longest / (self.o.kills + 1)):
                break
        else:
            self.start_once(run, way, None)
        counts["runs"] += 1
        wrong, steps = wrong_bits(reference, run.out), different_steps(reference, run.out)
        counts["wrong_bits"] += wrong
        counts["wrong_steps"] += steps
        print(f"{self.o.rounds - self.rounds_left()} rounds: {way}, run {number}: {wrong} wrong bits, "
              f"{steps} wrong steps", file=sys.stderr, flush=True)  # fmt: skip
        if wrong or steps:
            shutil.copytree(run.out, self.o.folder / f"wrong-{number}", dirs_exist_ok=True)

    def rounds_left(self) -> int:
        return self.o.rounds - sum(c["rounds"] for c in self.counts.values())


def main() -> int:
    o = arguments()
    o.folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    soak = Soak(o)
    number = 0
    try:
        while soak.rounds_left() > 0:
            number += 1
            soak.live(o.ways[number % len(o.ways)], number)
    except KeyboardInterrupt:
        print("interrupted; the run in progress is not compared", file=sys.stderr)
    print("| | rounds | of them in a save | runs | steps lost | wrong steps | wrong bits |")
    print("|---|---|---|---|---|---|---|")
    total = {key: sum(c[key] for c in soak.counts.values()) for key in next(iter(soak.counts.values()))}
    for way, c in [*soak.counts.items(), ("all", total)]:
        print(f"| {way} | {c['rounds']} | {c['in_a_save']} | {c['runs']} | {c['steps_lost']} "
              f"| {c['wrong_steps']} | {c['wrong_bits']} |")  # fmt: skip
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True, cwd=ROOT).stdout.strip()  # fmt: skip
    line = {"commit": commit, "seed": o.seed, "steps": o.steps, "every": o.every, "set": o.set,
            "seconds": round(time.time() - start), **total, "ways": soak.counts}  # fmt: skip
    with open(o.folder / "results.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"\n{o.folder / 'results.jsonl'}: {json.dumps(line)}")
    return 1 if total["wrong_bits"] or total["wrong_steps"] else 0


if __name__ == "__main__":
    sys.exit(main())
