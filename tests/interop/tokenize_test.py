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
    "<|im_start|>user <|endoftext|> and <s> </s> spelled out",
]


def assert_same(ours: list, expected: list, what: str) -> None:
    assert len(ours) == len(expected)
    for index, (got, wanted) in enumerate(zip(ours, expected)):
        assert got == wanted, f"{what} {index}"


@pytest.fixture(scope="session", params=["stories", "smollm2"])
def model_and_peer(request):
    """What qat-tokenize is given, and the peer's tokenizer of the same model."""
    if request.param == "stories":
        folder = request.getfixturevalue("stories")
        return folder, Tokenizer.from_file(str(folder / "tokenizer.json"))
    folder = request.getfixturevalue("smollm2_folder")
    return request.getfixturevalue("smollm2"), Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_hard_lines(commands, model_and_peer, tmp_path):
    model, peer = model_and_peer
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(HARD_LINES) + "\n", encoding="utf-8")
    ours = [json.loads(line) for line in commands.run("qat-tokenize", model, text).splitlines()]
    expected = [peer.encode(line, add_special_tokens=False).ids for line in HARD_LINES]
    assert_same(ours, expected, "line")


@pytest.mark.parametrize("name", ["tinystories_valid.jsonl", "peps_valid.jsonl"])
def test_records(commands, model_and_peer, data, name):
    model, peer = model_and_peer
    path = data / "text" / name
    records = [json.loads(line)["text"] for line in open(path, encoding="utf-8")]
    ours = [json.loads(line) for line in commands.run("qat-tokenize", model, path).splitlines()]
    expected = [e.ids for e in peer.encode_batch(records, add_special_tokens=False)]
    assert_same(ours, expected, f"record of {name}")
