"""The blocks of blocks.py on a GPU, as far as the time reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import blocks
from budget import Budget

BATCH, REPEAT = 64, 25

# Seconds that the first block of a pass may take; later ones are expected to take what the
# longest so far did.
FIRST = {False: 15.0, True: 40.0}


def run(
    write: Callable[..., None],
    budget: Budget,
    where: dict[str, object],
    run_block: Callable[..., dict] = blocks.run_block,
) -> None:
    """Writes the results after each block: first all without torch.compile, which takes long.

    Args:
        where: the machine, as `environment` describes it.
    """
    found: dict[str, dict] = {}
    left_out, problems = [], []
    result = {"environment": where, "batch": BATCH, "repeat": REPEAT, "unit": "us"}
    for compiled in (False, True):
        longest = FIRST[compiled]
        for block in blocks.BLOCKS:
            label = f"{block.name}{' with torch.compile' if compiled else ''}"
            if not budget.allows(longest):
                left_out.append(f"{label}: left out, {budget.left():.0f} s are left")
                continue
            start = time.perf_counter()
            try:
                one = run_block(block, BATCH, REPEAT, compiled, "cuda")
            except Exception as error:  # whatever it is: the others have to be measured
                problems.append(f"{label}: {type(error).__name__}: {str(error)[:300]}")
            else:
                problems += [f"{label}: {line}" for line in one["wrong"]]
                found[block.letter] = one
            longest = max(longest, time.perf_counter() - start)
            write(
                status="failed" if problems else "ok",
                summary=f"{len(found)} of {len(blocks.BLOCKS)} blocks measured",
                problems=problems + left_out,
                result={**result, "blocks": list(found.values())},
            )
    if left_out:
        write(problems=problems + left_out)
