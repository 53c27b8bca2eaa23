#!/usr/bin/env python3
"""Splits a .jsonl into train.jsonl and heldout.jsonl: scripts/split_jsonl.py FILE FOLDER [RECORDS]

The last RECORDS lines (200 if not given) are held out, so that a recipe can measure on text that it
does not train on.
"""

import sys
from pathlib import Path


def main() -> None:
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines(keepends=True)
    folder, held = Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 200
    if not 0 < held < len(lines):
        sys.exit(f"{sys.argv[1]}: {len(lines)} records, {held} of them cannot be held out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(lines[:-held]), encoding="utf-8")
    (folder / "heldout.jsonl").write_text("".join(lines[-held:]), encoding="utf-8")
    print(f"{folder}: {len(lines) - held} records to train on, {held} held out")


if __name__ == "__main__":
    main()
