"""scripts/completion.bash, asked as bash asks it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Splits the line as readline does with bash's own COMP_WORDBREAKS.
ASK = r"""
source scripts/completion.bash
line=$1
COMP_LINE=$line COMP_POINT=${#line}
mapfile -t COMP_WORDS < <(grep -oE '=|[^ =]+' <<<"$line")
[[ $line == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_qat "${COMP_WORDS[0]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(commands, line: str) -> list[str]:
    environment = os.environ | {"PATH": f"{commands.path('qat-train').parent}:{os.environ['PATH']}"}
    asked = subprocess.run(["bash", "-c", ASK, "bash", line], cwd=ROOT, env=environment, check=True,
                           capture_output=True, text=True)  # fmt: skip
    return [word for word in asked.stdout.splitlines() if word]


def test_every_option_of_every_command(commands):
    for name in ("train", "eval", "generate", "export", "inspect", "tokenize", "bench"):
        said = commands.run(f"qat-{name}", "--help")
        options = set(re.findall(r"--[a-z][a-z-]+", said))
        assert set(complete(commands, f"qat-{name} --")) == options
        assert "--help" in options


@pytest.mark.parametrize(("line", "words"), [
    ("qat-train --dr", ["--dry-run"]),
    ("qat-train r.yaml --set train.zero", ["train.zero_stage="]),
    ("qat-train r.yaml --set backend=", ["auto", "cpu", "cuda"]),
    ("qat-train r.yaml --set backend=cu", ["cuda"]),
    ("qat-train r.yaml --set data.packing=t", ["true"]),
    ("qat-export run --format g", ["gguf", "gptq"]),
    ("qat-train recipes/quick", ["recipes/quickstart.yaml"]),
])  # fmt: skip
def test_words(commands, line, words):
    assert complete(commands, line) == words
