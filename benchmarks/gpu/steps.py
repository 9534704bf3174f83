"""Runs measurements in order, within the time budget, and writes the results after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpu.budget import Budget


class Step(NamedTuple):
    """One measurement: its name, its result's key, and the function that measures.

    A result with the key of an earlier one replaces it. A result's `wrong` lists its errors, one
    line each. An exception counts as a problem too and ends only its step.
    """

    label: str
    key: str
    run: Callable[[], dict]


class Pass(NamedTuple):
    """Steps of similar duration, and the largest number of seconds for one of them."""

    seconds: float
    steps: Sequence[Step]


def run(
    passes: Sequence[Pass],
    write: Callable[..., None],
    budget: Budget,
    tell: Callable[[list[dict]], dict[str, object]],
) -> None:
    """Runs the passes in order, each up to the first step beyond the time budget.

    A step is expected to take as long as the longest step of its pass so far.

    Args:
        write: Report.write for one part; it gets `status` and `problems` too.
        tell: returns the report of the results so far.
    """
    found: dict[str, dict] = {}
    problems: list[str] = []
    left_out: list[str] = []
    for longest, steps in passes:
        for i, step in enumerate(steps):
            if not budget.allows(longest):
                more = f" and {len(steps) - i - 1} more" if i + 1 < len(steps) else ""
                left_out.append(f"{step.label}{more}: left out, {budget.left():.0f} s are left")
                write(problems=problems + left_out)
                break
            before = budget.left()
            try:
                one = step.run()
            except Exception as error:  # any error: the other steps must still run
                problems.append(f"{step.label}: {type(error).__name__}: {str(error)[:300]}")
            else:
                problems += [f"{step.label}: {line}" for line in one["wrong"]]
                found[step.key] = one
            longest = max(longest, before - budget.left())
            write(
                status="failed" if problems else "ok",
                problems=problems + left_out,
                **tell(list(found.values())),
            )
