"""Splits the Jargon File (on stdin) into FOLDER/train.txt and FOLDER/heldout.txt.

The lexicon's entries start with a line like "   :baroque: adj."; every tenth one is held out, the
same ones each time. The tables of contents and the chapters around the lexicon are left out.
"""

import re
import sys
from pathlib import Path

HEADWORD = re.compile(r"^   :[^:]")
CHAPTER = re.compile(r"^[^\s]|^\s+Part\s")


def entries(lines: list[str]) -> list[str]:
    """The lexicon's entries, without the three spaces every line is indented by."""
    found: list[list[str]] = []
    inside = False
    for line in lines:
        if HEADWORD.match(line):
            found.append([])
            inside = True
        elif CHAPTER.match(line):
            inside = False
        if inside:
            found[-1].append(line.removeprefix("   ").rstrip())
    return ["\n".join(entry).strip() + "\n" for entry in found]


def main() -> int:
    folder = Path(sys.argv[1])
    found = entries(sys.stdin.buffer.read().decode("utf-8").splitlines())
    if len(found) < 2000:
        print(f"split_jargon: only {len(found)} entries found, expected over 2000", file=sys.stderr)
        return 1
    parts = {"train": [], "heldout": []}
    for index, entry in enumerate(found):
        parts["heldout" if index % 10 == 9 else "train"].append(entry)
    for name, part in parts.items():
        unfinished = folder / f"{name}.txt.tmp"
        unfinished.write_text("\n".join(part), encoding="utf-8")
        unfinished.rename(folder / f"{name}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
