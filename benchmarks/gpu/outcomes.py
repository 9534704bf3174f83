"""What `pytest -v` said, also of a run that was killed or that crashed."""

from __future__ import annotations

import re


def read(text: str) -> dict[str, object]:
    """Counts of each outcome, the tests that failed, and the one that never ended ("" if none).

    `ok`: something passed, nothing failed, and the run came to its end.
    """
    counts: dict[str, int] = {}
    failed, unfinished = [], ""
    for line in text.splitlines():
        name, outcome = _test(line)
        if outcome:
            counts[outcome] = counts.get(outcome, 0) + 1
            if outcome in ("FAILED", "ERROR"):
                failed.append(name or unfinished)
            unfinished = ""
        elif name:
            unfinished = name
    ended = re.search(r"^=+ .*\d+ \w+.* in [\d.]+s.* =+$", text, re.MULTILINE) is not None
    ok = counts.get("PASSED", 0) > 0 and not failed and not unfinished and ended
    return {"ok": ok, "counts": counts, "failed": failed, "unfinished": unfinished, "ended": ended}


def _test(line: str) -> tuple[str, str]:
    """The test and the outcome that a line begins or ends with, each "" where it does not."""
    percent = r"(?:\s+\(.*\))?\s+\[\s*\d+%\]$"  # behind a skipped test comes the reason
    outcomes = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
    if whole := re.match(rf"(\S+\.py::.+?) ({outcomes}){percent}", line):
        return whole[1], whole[2]
    if begun := re.match(r"(\S+\.py::\S.*?) *$", line):
        return begun[1], ""
    # What the test printed stands between its name and its outcome.
    ended = re.search(rf"\b({outcomes}){percent}", line)
    return "", ended[1] if ended else ""
