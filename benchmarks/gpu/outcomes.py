"""Reads the outcomes from pytest's -v output, even of a run that was killed or crashed."""

from __future__ import annotations

import re


def read(text: str) -> dict[str, object]:
    """Counts of each outcome, the failed tests, and the test that never ended ("" if none).

    `ok`: something passed, nothing failed, and the run ended.
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
    """The test at a line's start and the outcome at its start or end; "" for a missing one."""
    percent = r"(?:\s+\(.*\))?\s+\[\s*\d+%\]$"  # a skipped test is followed by the reason
    outcomes = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
    if whole := re.match(rf"(\S+\.py::.+?) ({outcomes}){percent}", line):
        return whole[1], whole[2]
    if begun := re.match(r"(\S+\.py::\S.*?) *$", line):
        return begun[1], ""
    # The test's own output is between its name and its outcome.
    ended = re.search(rf"\b({outcomes}){percent}", line)
    return "", ended[1] if ended else ""
