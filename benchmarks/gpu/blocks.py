"""Measures the blocks of parts/blocks.py on a GPU, within the time budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gpu import steps
from gpu.budget import Budget
from parts import blocks

BATCH, REPEAT = 64, 25

# Seconds that a block may take, without and with torch.compile.
SECONDS = {False: 15.0, True: 40.0}


def run(
    write: Callable[..., None],
    budget: Budget,
    where: dict[str, object],
    run_block: Callable[..., dict] = blocks.run_block,
) -> None:
    """Writes the results after each block. Runs without torch.compile, which is slow, come first.

    Args:
        where: the machine, as `environment` describes it.
    """

    def step(block: blocks.Block, compiled: bool) -> steps.Step:
        label = f"{block.name}{' with torch.compile' if compiled else ''}"
        job = partial(run_block, block, BATCH, REPEAT, compiled, "cuda")
        return steps.Step(label, block.letter, job)

    def tell(found: list[dict]) -> dict[str, object]:
        result = {"environment": where, "batch": BATCH, "repeat": REPEAT, "unit": "us"}
        summary = f"{len(found)} of {len(blocks.BLOCKS)} blocks measured"
        return {"summary": summary, "result": {**result, "blocks": found}}

    passes = [
        steps.Pass(seconds, [step(block, compiled) for block in blocks.BLOCKS])
        for compiled, seconds in SECONDS.items()
    ]
    steps.run(passes, write, budget, tell)
