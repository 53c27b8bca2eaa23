"""qat-eval's tasks and generation as commands: what is printed, what is refused, what a kill leaves."""

import json
import signal
import time

import pytest
from conftest import ROOT

TASKS = "arc_easy,winogrande,lambada"


@pytest.fixture()
def task_options(data):
    return ["--tasks", TASKS, "--task-data", data / "eval", "--limit", 20]


def test_every_number_has_its_interval(commands, stories, task_options):
    found = commands.json("qat-eval", stories, *task_options, "--json")
    assert list(found["tasks"]) == TASKS.split(",")
    for task in found["tasks"].values():
        assert task["rows"] == 20 and len(task["right"]) == 20
        for metric in task["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
        assert task["metrics"]["acc"]["value"] == pytest.approx(task["right"].count("1") / 20)
    assert list(found["tasks"]["winogrande"]["metrics"]) == ["acc"]


def test_what_was_computed_is_not_computed_again(commands, stories, task_options, tmp_path):
    """A file cut anywhere gives the same answer, and ends up whole."""
    records = tmp_path / "results.jsonl"
    arguments = ["qat-eval", stories, *task_options, "--results", records, "--json"]
    first = commands.json(*arguments)
    whole = records.read_bytes()
    size = len(whole)
    assert commands.json(*arguments) == first and records.read_bytes() == whole
    for cut in (size // 2 + 7, size - 1):
        records.write_bytes(whole[:cut])
        assert commands.json(*arguments) == first
        assert sorted(records.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_killed_evaluation_goes_on(commands, stories, data, tmp_path):
    options = ["--tasks", "hellaswag,arc_easy", "--task-data", data / "eval", "--limit", 80, "--json"]
    records = tmp_path / "results.jsonl"
    process = commands.start("qat-eval", stories, *options, "--results", records,
                             output=tmp_path / "log")  # fmt: skip
    deadline = time.monotonic() + 600
    while not (records.exists() and records.stat().st_size > 2000):
        assert time.monotonic() < deadline
        if process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(records.read_bytes().splitlines())
    assert before > 0
    again = commands.json("qat-eval", stories, *options, "--results", records)
    assert again == commands.json("qat-eval", stories, *options)


def test_another_model_is_not_taken_for_this_one(commands, stories, short_run, task_options, tmp_path):
    records = tmp_path / "results.jsonl"
    plain, trained = (
        commands.json("qat-eval", model, *task_options, "--results", records, "--json")
        for model in (stories, short_run)
    )
    alone = commands.json("qat-eval", short_run, *task_options, "--json")
    assert trained["tasks"] == alone["tasks"] != plain["tasks"]


def test_a_reference_counts_what_changed(commands, stories, short_run, data, task_options):
    found = commands.json(
        "qat-eval", short_run, *task_options, "--reference", stories, "--generate", 40, "--text",
        data / "text" / "tinystories_valid.jsonl", "--context", "64,128", "--max-windows", 6,
        "--json",
    )  # fmt: skip
    assert set(found["contexts"]) == {"64", "128"} == set(found["agreement"])
    for agreement in found["agreement"].values():
        assert 0 < agreement["kl"] < 0.1
        assert 0.8 < agreement["same_likeliest"] <= 1
    for task, counted in found["flips"].items():
        ours, theirs = found["tasks"][task]["right"], found["reference_tasks"][task]["right"]
        assert counted["to_wrong"] == sum(a < b for a, b in zip(ours, theirs))
        assert counted["to_right"] == sum(a > b for a, b in zip(ours, theirs))
    generation = found["generation"]
    assert generation["prompts"] == 20 == len(generation["texts"])
    assert 0 <= generation["divergence"]["median_token"] <= 40
    assert "divergence" not in found["reference_generation"]


def test_a_model_agrees_with_itself(commands, stories, data):
    found = commands.json(
        "qat-eval", stories, "--reference", stories, "--generate", 30, "--tasks", "arc_easy",
        "--task-data", data / "eval", "--limit", 10, "--text",
        data / "text" / "tinystories_valid.jsonl", "--context", 64, "--max-windows", 4, "--json",
    )  # fmt: skip
    assert found["agreement"]["64"]["kl"] == pytest.approx(0, abs=1e-9)
    assert found["agreement"]["64"]["same_likeliest"] == 1
    assert found["flips"]["arc_easy"]["share"] == 0
    assert found["generation"]["divergence"]["same_texts"] == 1


def test_solutions_are_written_and_read(commands, stories, tmp_path):
    """Three solved rows are examples, two are asked."""
    rows = [{"question": f"{i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"} for i in range(5)]
    (tmp_path / "gsm8k_test_500.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = tmp_path / "results.jsonl"
    found = commands.json("qat-eval", stories, "--tasks", "gsm8k", "--task-data", tmp_path, "--shots",
                          3, "--results", records, "--json")["tasks"]["gsm8k"]  # fmt: skip
    assert found["rows"] == 2
    assert set(found["metrics"]) == {
        "exact_match_strict", "exact_match_flexible", "reference_perplexity"
    }  # fmt: skip
    texts = [json.loads(line) for line in records.read_text().splitlines()]
    assert sum("text" in record for record in texts) == 2


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "nothing to measure"),
        (["--tasks", "arc_easy"], "expected --task-data DIR"),
        (["--tasks", "mmlu", "--task-data", "."], "is no task; expected one of hellaswag"),
        (["--tasks", "arc_easy", "--task-data", "/nowhere"], "/nowhere/arc_easy.jsonl"),
        (["--prompts", "x"], "only beside --generate"),
    ],
)
def test_refusals(commands, stories, arguments, expected):
    done = commands.complete("qat-eval", stories, *arguments, expect=2, cwd=ROOT)
    assert expected in done.stderr and done.stderr.count("\n") == 1


def test_passkeys_longer_than_the_context_are_left_out(commands, stories, data):
    done = commands.complete("qat-eval", stories, "--tasks", "passkey", "--task-data", data / "eval",
                             expect=2, cwd=ROOT)  # fmt: skip
    assert "longer than the model's context of 512 tokens" in done.stderr


def test_prompts_from_a_file(commands, stories, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Once upon a time\n\nLily had a\n")
    lines = commands.run("qat-generate", stories, "--prompts", file, "--max-tokens", 12).splitlines()
    answers = [json.loads(line) for line in lines]
    assert [a["prompt"] for a in answers] == ["Once upon a time", "Lily had a"]
    for answer in answers:
        alone = commands.run("qat-generate", stories, "--prompt", answer["prompt"], "--max-tokens", 12)
        assert alone.strip() == (answer["prompt"] + answer["text"]).strip()


def test_sampling_follows_its_options(commands, stories):
    def text(*options):
        return commands.run("qat-generate", stories, "--prompt", "Once upon a time", "--max-tokens",
                            30, *options)  # fmt: skip

    greedy = text()
    assert text("--temperature", 1, "--top-k", 1) == greedy
    assert text("--temperature", 1, "--min-p", 1) == greedy
    assert text("--repetition-penalty", 5) != greedy
    assert text("--temperature", 1, "--seed", 3) == text("--temperature", 1, "--seed", 3) != greedy


def test_chat_needs_a_template(commands, stories):
    done = commands.complete("qat-generate", stories, "--prompt", "Hi", "--chat", expect=2, cwd=ROOT)
    assert "chat template" in done.stderr


def test_chat_is_the_models_template_around_the_message(commands, smollm2):
    """SmolLM2's, written out; what is printed is the answer alone."""
    options = ["--max-tokens", 12]
    answer = commands.run("qat-generate", smollm2, "--chat", "--system", "Be brief.", "--prompt",
                          "What is the capital of France?", *options)  # fmt: skip
    written = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    whole = commands.run("qat-generate", smollm2, "--prompt", written, *options)
    assert len(answer.strip()) > 3 and whole.endswith("assistant\n" + answer)
