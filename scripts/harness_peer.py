"""Runs lm-evaluation-harness and qat-eval on the same rows and compares them.

The harness runs its own code on the same JSON lines: the task definitions below are its own (0.4.13)
with the dataset replaced. Prints a line a task, and fails where less than 99.5% of the decisions agree.

    ./scripts/venv .venv-harness scripts/harness_requirements.txt 12
    .venv-harness/bin/python scripts/harness_peer.py MODEL HF_DIRECTORY --task-data DIR [--limit N]

MODEL is what qat-eval opens; HF_DIRECTORY holds the same weights for transformers
(scripts/gguf_to_hf.py writes one of a GGUF file).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ANSWER = "{{context.rstrip('\\n')}}\nAnswer:"
BOTH = [dict(metric=name, aggregation="mean", higher_is_better=True) for name in ("acc", "acc_norm")]
CHOICES = dict(output_type="multiple_choice", doc_to_choice="{{choices}}", doc_to_target="{{gold}}",
               metric_list=BOTH)  # fmt: skip
TASKS = {
    "hellaswag": dict(CHOICES, doc_to_text="{{context}}"),
    "openbookqa": dict(CHOICES, doc_to_text="{{context}}"),
    "arc_easy": dict(CHOICES, doc_to_text=ANSWER),
    "arc_challenge": dict(CHOICES, doc_to_text=ANSWER),
    "piqa": dict(CHOICES, doc_to_text=ANSWER),
    # As its preprocess_winogrande.py: the contexts are the choices, the text is the gold one.
    "winogrande": dict(output_type="multiple_choice", doc_to_text=lambda row: row["gold"],
                       doc_to_choice=lambda row: row["contexts"],
                       doc_to_target=lambda row: row["continuation"], metric_list=BOTH[:1]),
    "lambada": dict(output_type="loglikelihood", doc_to_text="{{context}}",
                    doc_to_target="{{continuation}}", target_delimiter="",
                    metric_list=[dict(metric="perplexity", aggregation="perplexity",
                                      higher_is_better=False), BOTH[0]]),
}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task-data", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--qat-eval", default="build/bin/qat-eval")
    parser.add_argument("--activations", default="float", help="as qat-eval's; transformers has float")
    return parser.parse_args()


def run_harness(args, names: list[str]) -> dict:
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(args.folder), dtype="float32", device="cpu", batch_size=16)
    tasks = []
    for name in names:
        config = dict(TASKS[name], task=name, dataset_path="json", test_split="test",
                      dataset_kwargs=dict(data_files=dict(
                          test=str(args.task_data / f"{name}.jsonl"))))  # fmt: skip
        tasks.append(ConfigurableTask(config=config))
    return simple_evaluate(model=model, tasks=tasks, limit=args.limit or None, log_samples=True,
                           bootstrap_iters=0)  # fmt: skip


def run_ours(args, names: list[str]) -> tuple[dict, dict]:
    """(what --json says, log-likelihoods by task and request)."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        call = [args.qat_eval, args.model, "--tasks", ",".join(names), "--task-data", args.task_data,
                "--limit", args.limit, "--activations", args.activations, "--results", results,
                "--json"]  # fmt: skip
        done = subprocess.run(list(map(str, call)), capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        likelihoods: dict = {name: {} for name in names}
        for line in results.read_text().splitlines():
            record = json.loads(line)
            likelihoods[record["task"]].update(zip(record["requests"], record["log_likelihood"]))
        return json.loads(done.stdout)["tasks"], likelihoods


def main() -> None:
    args = arguments()
    names = args.tasks.split(",")
    ours, likelihoods = run_ours(args, names)
    theirs = run_harness(args, names)
    worst = 1.0
    for name in names:
        samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
        right = "".join(str(int(sample["acc"])) for sample in samples)
        same = sum(a == b for a, b in zip(right, ours[name]["right"])) / len(right)
        assert len(right) == len(ours[name]["right"])
        flat = [response[0] for sample in samples for response in sample["filtered_resps"]]
        if name == "lambada":
            flat = [float(sample["filtered_resps"][0][0]) for sample in samples]
        apart = max(abs(float(value) - likelihoods[name][i]) for i, value in enumerate(flat))
        numbers = []
        for metric, value in ours[name]["metrics"].items():
            expected = theirs["results"][name][f"{metric},none"]
            numbers.append(f"{metric} {value['value']:.4f} (harness {expected:.4f})")
        print(f"{name}: {len(right)} rows, {100 * same:.1f}% same decisions, log-likelihoods at most "
              f"{apart:.1e} apart, {', '.join(numbers)}")  # fmt: skip
        worst = min(worst, same)
    sys.exit(0 if worst >= 0.995 else "less than 99.5% of the decisions agree")


if __name__ == "__main__":
    main()
