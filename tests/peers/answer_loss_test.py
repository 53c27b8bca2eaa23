"""The loss on answers alone equals that of transformers with labels of -100 elsewhere."""

import sys

import pytest
import torch
from conftest import ROOT
from transformers import AutoTokenizer, LlamaForCausalLM

sys.path.insert(0, str(ROOT / "tests" / "interop"))
from answers_test import PAIRS, TEMPLATE, train, write_jsonl  # noqa: E402
from run_test import metrics  # noqa: E402


def reference_loss(model, documents) -> tuple[float, int]:
    """documents: ids and how many of them, from the front, are no targets. -> mean loss, targets."""
    total, count = 0.0, 0
    for ids, ignored in documents:
        labels = torch.tensor([ids])
        labels[0, :ignored] = -100
        targets = int((labels[0, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([ids]), labels=labels).loss) * targets
        count += targets
    return total / count, count


@pytest.fixture(scope="module")
def reference(stories):
    return AutoTokenizer.from_pretrained(stories), LlamaForCausalLM.from_pretrained(stories).float()


def test_prompt_and_completion(commands, stories, reference, tmp_path):
    tokenizer, model = reference
    documents = []
    for prompt, completion in PAIRS:
        ids = tokenizer(prompt + completion, add_special_tokens=False).input_ids
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        same = next((i for i, (a, b) in enumerate(zip(before, ids)) if a != b), len(before))
        documents.append((ids + [tokenizer.eos_token_id], same))
    pairs = write_jsonl(tmp_path / "a.jsonl", [{"prompt": p, "completion": c} for p, c in PAIRS])
    train(commands, stories, tmp_path / "run", pairs)
    loss, count = reference_loss(model, documents)
    first = metrics(tmp_path / "run" / "run")[0]
    assert first["tokens"] == count
    assert first["loss"] == pytest.approx(loss, rel=1e-4)


def test_messages(commands, stories, reference, tmp_path):
    tokenizer, model = reference
    tokenizer.chat_template = TEMPLATE
    documents, records = [], []
    for prompt, completion in PAIRS:
        talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        records.append({"messages": talk})
        text = tokenizer.apply_chat_template(talk, tokenize=False)
        asked = tokenizer.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True)
        assert text.startswith(asked) and text.endswith(tokenizer.eos_token + "\n")
        encode = lambda t: tokenizer(t, add_special_tokens=False).input_ids  # noqa: E731
        ids, before = encode(text), encode(asked)
        same = next((i for i, (a, b) in enumerate(zip(before, ids)) if a != b), len(before))
        # What the template writes after the answer's end token is no target.
        last = len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id)
        documents.append((ids[: last + 1], same))
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    chats = write_jsonl(tmp_path / "a.jsonl", records)
    train(commands, stories, tmp_path / "run", chats, data=f", chat_template: {tmp_path}/chat.jinja")
    loss, count = reference_loss(model, documents)
    first = metrics(tmp_path / "run" / "run")[0]
    assert first["tokens"] == count
    assert first["loss"] == pytest.approx(loss, rel=1e-4)
