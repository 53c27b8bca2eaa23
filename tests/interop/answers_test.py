"""Data with answers: the loss counts on them alone, and is divided by what counts in a whole batch."""

import json

import pytest
from conftest import ROOT
from run_test import metrics
from tokenizers import Tokenizer

PAIRS = [
    ("Tom had a red ball. He", " gave it to Sue and they played all day."),
    ("The cat", " slept."),
    ("Once upon a time there was a girl. She liked to", " run in the park with her big brown dog."),
    ("Where is the moon?", " It is up in the sky."),
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
RECIPE = """
model: {model}
out: {folder}/run
dtype: fp32
data: {{train: [{train}], sequence: 96, packing: false{data}}}
train: {{steps: 2, batch: 4, micro_batch: {micro}, learning_rate: 1.0e-3}}
checkpoint: {{every: 0}}
"""


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def train(commands, model, folder, train, *, micro=4, data="", sets=(), expect=0):
    folder.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=model, folder=folder, train=train, micro=micro, data=data))
    sets = [part for setting in sets for part in ("--set", setting)]
    return commands.complete("qat-train", recipe, *sets, expect=expect, cwd=ROOT).stderr


def counted_tokens(tokenizer, prompt, completion) -> int:
    """Tokens of the answer, its end included."""
    whole = tokenizer.encode(prompt + completion, add_special_tokens=False).ids
    alone = tokenizer.encode(prompt, add_special_tokens=False).ids
    same = next((i for i, (a, b) in enumerate(zip(alone, whole)) if a != b), len(alone))
    return len(whole) - same + 1


def test_pairs(commands, stories, tmp_path):
    records = [{"question": q, "answer": a} for q, a in PAIRS]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", records)
    fields = ", prompt_field: question, completion_field: answer"
    said = train(commands, stories, tmp_path / "whole", pairs, data=fields)
    assert "the loss counts on the answers of 4 documents only" in said
    train(commands, stories, tmp_path / "parts", pairs, data=fields, micro=1)
    whole, parts = (metrics(tmp_path / name / "run") for name in ("whole", "parts"))
    tokenizer = Tokenizer.from_file(str(stories / "tokenizer.json"))
    expected = sum(counted_tokens(tokenizer, q, a) for q, a in PAIRS)
    # Answers of 1 to 20 tokens: a mean of the micro-batches' means would be far off.
    for a, b in zip(whole, parts):
        assert a["tokens"] == b["tokens"] == expected
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


def test_what_stands_between(commands, stories, tmp_path):
    pairs = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Where is it?", "completion": "Here."}] * 4)
    glued = train(commands, stories, tmp_path / "glued", pairs)
    assert "data.separator" in glued
    apart = train(commands, stories, tmp_path / "apart", pairs, data=', separator: "\\n"')
    assert "data.separator" not in apart
    assert metrics(tmp_path / "glued" / "run")[0]["loss"] != metrics(tmp_path / "apart" / "run")[0]["loss"]


def test_messages_need_a_template(commands, stories, tmp_path):
    talk = [{"role": "user", "content": PAIRS[0][0]}, {"role": "assistant", "content": PAIRS[0][1]}]
    chats = write_jsonl(tmp_path / "chats.jsonl", [{"messages": talk}] * 4)
    refused = train(commands, stories, tmp_path / "none", chats, expect=2)
    assert "chats.jsonl" in refused and "data.chat_template" in refused
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE)
    said = train(commands, stories, tmp_path / "given", chats, data=f", chat_template: {template}",
                 sets=["export=[hf]"])  # fmt: skip
    assert "answers of 4 documents" in said
    run = tmp_path / "given" / "run"
    for folder in (run / "model", run / "export" / "hf"):
        assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    template.write_text("{% macro broken %}")
    assert "chat.jinja" in train(commands, stories, tmp_path / "broken", chats, expect=2,
                                 data=f", chat_template: {template}")  # fmt: skip


def test_answers_that_do_not_fit_are_said(commands, stories, tmp_path):
    records = [{"prompt": "a " * n, "completion": "b " * 40} for n in (3, 80, 150)]
    pairs = write_jsonl(tmp_path / "long.jsonl", records)
    said = train(commands, stories, tmp_path / "run", pairs, sets=["train.batch=2", "train.micro_batch=2"])
    assert "2 of them are longer than data.sequence, 96 tokens" in said
    assert "1 of those are left out" in said
