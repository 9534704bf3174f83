"""Measurements one after another, as far as the time reaches, written after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpu.budget import Budget


class Step(NamedTuple):
    """One measurement: its name for people, the place of its result, and what gives the result.

    A result with the key of an earlier one replaces it. Its `wrong` is what is wrong with it, one
    line each; an exception is a problem as well and ends nothing but its step.
    """

    label: str
    key: str
    run: Callable[[], dict]


class Pass(NamedTuple):
    """Steps that take about as long as each other, and the seconds that any of them may take."""

    seconds: float
    steps: Sequence[Step]


def run(
    passes: Sequence[Pass],
    write: Callable[..., None],
    budget: Budget,
    tell: Callable[[list[dict]], dict[str, object]],
) -> None:
    """Runs the passes in their order, each up to the first step that the time does not reach.

    A step is expected to take what the longest of its pass so far did.

    Args:
        write: Report.write for one part; it gets `status` and `problems` too.
        tell: what to write of the results so far.
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
            except Exception as error:  # whatever it is: the others have to be measured
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
