"""qat-eval's tasks against transformers, with the formulas of lm-evaluation-harness in Python."""

import json
import math

import pytest
import torch
from reference import load
from tokenizers import Tokenizer

ROWS = 12
PROMPTS = {"arc_easy": "\nAnswer:", "arc_challenge": "\nAnswer:", "piqa": "\nAnswer:"}


def pairs(task: str, row: dict) -> list[tuple[str, str]]:
    """(context, continuation) of each request, as the harness's task files put them."""
    if task in ("lambada", "passkey"):
        return [(row["context"], row["continuation"])]
    if task == "winogrande":
        return [(context, " " + row["continuation"]) for context in row["contexts"]]
    context = row["context"]
    if task in PROMPTS:
        context = context.rstrip("\n") + PROMPTS[task]
    return [(context, " " + choice) for choice in row["choices"]]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str):
    """lm_eval.api.model.TemplateLM._encode_pair."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole, start = tokenizer.encode(context + continuation).ids, tokenizer.encode(context).ids
    return start, whole[len(start) :]


@torch.no_grad()
def likelihood(model, start: list[int], continuation: list[int]) -> tuple[float, bool]:
    most = model.config.max_position_embeddings
    ids = torch.tensor([(start + continuation)[-(most + 1) :][:-1]])
    logits = torch.log_softmax(model(ids).logits[0].float(), -1)[-len(continuation) :]
    targets = torch.tensor(continuation)
    total = logits.gather(-1, targets[:, None]).sum().item()
    return total, bool((logits.argmax(-1) == targets).all())


def compare(commands, model, folder, data, task, tmp_path, *options):
    records = tmp_path / "results.jsonl"
    ours = commands.json("qat-eval", model, "--tasks", task, "--task-data", data / "eval", "--limit",
                         ROWS, "--results", records, "--json", *options)["tasks"][task]  # fmt: skip
    found = {}
    for line in records.read_text().splitlines():
        record = json.loads(line)
        found.update(zip(record["requests"], zip(record["log_likelihood"], record["greedy"])))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference = load(folder)
    lines = (data / "eval" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    acc, acc_norm, nll, at = [], [], [], 0
    for line in lines[:ROWS]:
        row = json.loads(line)
        expected, lengths = [], []
        for context, continuation in pairs(task, row):
            start, end = encode_pair(tokenizer, context, continuation)
            total, greedy = likelihood(reference, start, end)
            assert found[at][0] == pytest.approx(total, abs=2e-3 * len(end)), (task, at)
            assert found[at][1] == greedy, (task, at)
            expected.append(total)
            lengths.append(len(continuation) - 1)
            at += 1
        if "gold" in row:
            acc.append(expected.index(max(expected)) == row["gold"])
            normalised = [value / length for value, length in zip(expected, lengths)]
            acc_norm.append(normalised.index(max(normalised)) == row["gold"])
        else:
            acc.append(greedy)
            nll.append(-expected[0])
    assert len(found) == at
    metrics = ours["metrics"]
    assert metrics["acc"]["value"] == pytest.approx(sum(acc) / ROWS)
    if "acc_norm" in metrics:
        assert metrics["acc_norm"]["value"] == pytest.approx(sum(acc_norm) / ROWS)
    if "perplexity" in metrics:
        assert metrics["perplexity"]["value"] == pytest.approx(math.exp(sum(nll) / ROWS), rel=1e-3)


TASKS = ["arc_easy", "hellaswag", "piqa", "openbookqa", "winogrande", "lambada"]


@pytest.mark.parametrize("task", TASKS)
def test_stories260k(commands, stories, data, task, tmp_path):
    compare(commands, stories, stories, data, task, tmp_path)


@pytest.mark.parametrize("task", ["arc_challenge", "hellaswag", "winogrande", "lambada"])
def test_smollm2(commands, smollm2, smollm2_folder, data, task, tmp_path):
    compare(commands, smollm2, smollm2_folder, data, task, tmp_path, "--activations", "float")
