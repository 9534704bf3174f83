"""Measurements: `python benchmarks PART` from the repository's root."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import blocks
import overhead
import table


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _add_blocks(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "blocks",
        help="conv + bias + ReLU + max-pool against torch eager and torch.compile",
        description="Times the seven blocks of the networks, forward and forward + backward, in "
        "one process, the variants in turn. Results are checked against float64 before.",
    )
    names = [f"{block.letter} ({block.name})" for block in blocks.BLOCKS]
    command.add_argument("--batch", type=_at_least_one, default=8, help="images a call (8)")
    command.add_argument(
        "--block",
        action="append",
        metavar="BLOCK",
        help=f"only this one, by letter or name; may be repeated: {', '.join(names)}",
    )
    command.add_argument("--threads", type=_at_least_one, help="threads (torch's default)")
    command.add_argument("--no-compile", action="store_true", help="leave torch.compile out")


def _run_blocks(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> tuple[dict, str]:
    try:
        chosen = blocks.choose(arguments.block)
    except ValueError as error:
        parser.error(str(error))
    result = blocks.run(
        chosen,
        batch=arguments.batch,
        repeat=arguments.repeat,
        threads=arguments.threads,
        compiled=not arguments.no_compile,
    )
    return result, f"{table.details(result)}\n\n{table.summary(result)}"


def _add_overhead(commands: argparse._SubParsersAction) -> None:
    commands.add_parser(
        "overhead",
        help="what a call costs, on a tiny tensor, against torch's",
        description="Times each operation on a tensor so small that hardly anything is computed.",
    )


def _run_overhead(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> tuple[dict, str]:
    result = overhead.run(arguments.repeat)
    return result, table.overhead(result)


PARTS = {"blocks": (_add_blocks, _run_blocks), "overhead": (_add_overhead, _run_overhead)}


def main() -> None:
    """Reads the command line and runs what it names."""
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="part", required=True)
    for name, (add, _) in PARTS.items():
        add(commands)
        command = commands.choices[name]
        command.add_argument("--repeat", type=_at_least_one, default=15, help="samples (15)")
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="also write the results here"
        )
    arguments = parser.parse_args()
    result, text = PARTS[arguments.part][1](parser, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
