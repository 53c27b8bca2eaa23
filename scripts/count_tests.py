"""Sums JUnit files of ctest and pytest into one line; exits 1 if anything failed.

Each argument is a report without its .xml; a report that is missing counts as one failure (its
part died before it could write one).
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of one JUnit file, counted test case by test case."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        status = case.get("status", "")
        if case.find("failure") is not None or case.find("error") is not None or status == "fail":
            failed += 1
        elif case.find("skipped") is not None or status in ("notrun", "disabled"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main() -> int:
    total = [0, 0, 0]
    for name in sys.argv[1:]:
        report = Path(name + ".xml")
        if report.is_file() and report.stat().st_size:
            part = count(report)
            note = ""
        else:
            part = (0, 1, 0)
            note = " (no report: see its output above)"
        print("%-10s %d passed, %d failed, %d skipped%s" % (report.stem, *part, note))
        total = [a + b for a, b in zip(total, part)]
    print("%d passed, %d failed, %d skipped" % tuple(total))
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
