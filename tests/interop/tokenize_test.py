"""qat-tokenize gives the ids of Hugging Face's tokenizers, line by line and record by record."""

import json

import pytest
from tokenizers import Tokenizer

HARD_LINES = [
    "Once upon a time, there was a little girl named Lily.",
    "  leading spaces, trailing spaces  ",
    "tabs\tand   runs    of      spaces",
    "It's 2024-03-01: 1234567890 and 3.14159; don't, WE'LL, they've",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5\u3002",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 and e\u0301 composed \u00e9",
    "def f(x):    return {'a': [x ** 2 for _ in range(10)]}  # code",
    "control \x01\x7f and no-break\u00a0space",
]


def test_lines_of_stories260k(commands, stories, tmp_path):
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(HARD_LINES) + "\n", encoding="utf-8")
    ours = [json.loads(line) for line in commands.run("qat-tokenize", stories, text).splitlines()]
    peer = Tokenizer.from_file(str(stories / "tokenizer.json"))
    assert ours == [peer.encode(line, add_special_tokens=False).ids for line in HARD_LINES]


@pytest.mark.parametrize("name", ["tinystories_valid.jsonl", "peps_valid.jsonl"])
def test_records_of_stories260k(commands, stories, data, name):
    records = [json.loads(line)["text"] for line in open(data / "text" / name, encoding="utf-8")]
    out = commands.run("qat-tokenize", stories, data / "text" / name)
    ours = [json.loads(line) for line in out.splitlines()]
    peer = Tokenizer.from_file(str(stories / "tokenizer.json"))
    expected = [e.ids for e in peer.encode_batch(records, add_special_tokens=False)]
    assert len(ours) == len(expected)
    for index, (got, wanted) in enumerate(zip(ours, expected)):
        assert got == wanted, f"record {index} of {name}"
