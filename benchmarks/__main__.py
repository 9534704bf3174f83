"""Measures fastconv against torch.nn on this machine: `python benchmarks PART`, from anywhere.

docs/benchmarks.md describes the parts, their duration and their results.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from measure import calls, progress
from parts import blocks, layers, memory, networks, overhead, sweep
from show import compare, files, plot, table


class Part(NamedTuple):
    """A part of the suite, with its number of samples and its options."""

    help: str
    repeat: int
    run: Callable[[Namespace], dict]
    text: Callable[[dict], str]
    names: Sequence[str] = ()  # that --only chooses from
    batch: str = ""  # the default of --batch, in words
    dtypes: bool = True  # whether it measures 16 bits, too
    compiles: bool = False
    draw: Callable[[Path, dict], None] | None = None  # for --plot


def _blocks(arguments: Namespace) -> dict:
    chosen = blocks.choose(arguments.only)
    batch = arguments.batch or blocks.BATCH
    compiled = not arguments.no_compile
    return blocks.run(chosen, batch, arguments.repeat, compiled, arguments.dtype)


def _layers(arguments: Namespace) -> dict:
    batches = [arguments.batch] if arguments.batch else layers.BATCHES
    chosen = layers.choose(arguments.only)
    return layers.run(chosen, batches, arguments.repeat, arguments.dtype)


def _networks(arguments: Namespace) -> dict:
    names = progress.matching(networks.NETWORKS, arguments.only)
    compiled = not arguments.no_compile
    return networks.run(names, arguments.repeat, compiled, arguments.batch, arguments.dtype)


def _memory(arguments: Namespace) -> dict:
    names = progress.matching(memory.NETWORKS, arguments.only)
    return memory.run(names, arguments.repeat, not arguments.no_compile, arguments.batch)


PARTS = {
    "blocks": Part(
        "conv + bias + ReLU + max-pool of the package's networks, as one",
        9,
        _blocks,
        lambda result: f"{table.details(result)}\n\n{table.summary(result)}",
        [name for block in blocks.BLOCKS for name in (block.letter, block.name)],
        str(blocks.BATCH),
        compiles=True,
    ),
    "layers": Part(
        "lone Conv2d, MaxPool2d and ReLU of known networks",
        9,
        _layers,
        layers.text,
        list(layers.NETWORKS),
        " and ".join(map(str, layers.BATCHES)),
        draw=plot.layers,
    ),
    "networks": Part(
        "whole networks: a training step, and one image's latency",
        7,
        _networks,
        networks.text,
        list(networks.NETWORKS),
        "each network's own",
        compiles=True,
    ),
    "memory": Part(
        "the memory that a training step takes",
        2,
        _memory,
        memory.text,
        list(memory.NETWORKS),
        "each network's own",
        dtypes=False,
        compiles=True,
    ),
    "sweep": Part(
        "random convolutions, and the slowest of them by name",
        3,
        lambda arguments: sweep.run(
            arguments.dtype, arguments.count, arguments.seed, arguments.repeat
        ),
        sweep.text,
        draw=plot.histograms,
    ),
    "overhead": Part(
        "what a call costs on a tiny tensor, imports, the first call, room on disk",
        15,
        lambda arguments: overhead.run(arguments.repeat),
        overhead.text,
        dtypes=False,
    ),
}


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of the command line, and each part's."""
    parser = ArgumentParser(prog="python benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, part in PARTS.items():
        command = commands.add_parser(name, help=part.help, description=part.help)
        command.add_argument(
            "--repeat", type=_at_least_one, default=part.repeat, help=f"samples ({part.repeat})"
        )
        if part.names:
            names = ", ".join(part.names)
            command.add_argument(
                "--only", action="append", metavar="NAME", help=f"may be repeated: {names}"
            )
        if part.batch:
            command.add_argument("--batch", type=_at_least_one, help=f"images ({part.batch})")
        if part.dtypes:
            command.add_argument(
                "--dtype", choices=calls.TYPES, default="float32", help="of the tensors (float32)"
            )
        if name == "sweep":
            command.add_argument(
                "--count",
                type=_at_least_one,
                default=sweep.COUNT,
                help=f"problems ({sweep.COUNT})",
            )
            command.add_argument(
                "--seed", type=int, default=sweep.SEED, help=f"of the problems ({sweep.SEED})"
            )
        _add_common(command, part.compiles, part.draw is not None)
        _add_results(command, "FILE", "", files.to_write, files.to_read)
    everything = commands.add_parser("all", help="all parts, one after another")
    _add_common(everything, True, True)
    _add_results(everything, "FOLDER", " (PART.json)", files.folder_to_write, files.folder_to_read)
    return parser, commands.choices  # type: ignore[return-value]


def _add_results(
    command: ArgumentParser,
    where: str,
    names: str,
    to_write: Callable[[str], Path],
    to_read: Callable[[str], Path],
) -> None:
    command.add_argument(
        "--json", type=to_write, metavar=where, help=f"write the results here{names}"
    )
    command.add_argument(
        "--compare",
        type=to_read,
        metavar=where,
        help=f"earlier results{names}; exit status 1 if something is slower now",
    )


def _add_common(command: ArgumentParser, compiles: bool, plots: bool) -> None:
    command.add_argument("--threads", type=_at_least_one, help="threads (torch's default)")
    if compiles:
        command.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    if plots:
        command.add_argument("--plot", type=files.to_write, metavar="PNG", help="draw the ratios")


def _measure(name: str, arguments: Namespace) -> bool:
    """Runs a part, then writes and prints its results. Returns whether they became worse."""
    old = json.loads(arguments.compare.read_text()) if arguments.compare else None
    result = PARTS[name].run(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if (draw := PARTS[name].draw) and arguments.plot:
        draw(arguments.plot, result)
    print(PARTS[name].text(result), flush=True)
    if old is None:
        return False
    report, worse = compare.report(old, result)
    print(f"\n{report}", flush=True)
    return worse


def main(words: Sequence[str] | None = None) -> int:
    """Runs the part that the command line names, or all parts."""
    parser, commands = _parser()
    words = sys.argv[1:] if words is None else words
    arguments = parser.parse_args(words or ["all"])
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.part != "all":
        try:
            return int(_measure(arguments.part, arguments))
        except progress.NoSuchName as error:
            parser.error(str(error))
    worse = []
    for name in PARTS:
        print(f"\n## {name}\n", flush=True)
        own = vars(commands[name].parse_args([]))
        own["plot"] = arguments.plot if name == "layers" else None
        own["no_compile"] = arguments.no_compile
        for option in ("json", "compare"):
            folder = getattr(arguments, option)
            own[option] = folder and folder / f"{name}.json"
        if own["compare"] and not own["compare"].exists():
            progress.say(f"{name}: nothing to compare with in {arguments.compare}")
            own["compare"] = None
        if _measure(name, Namespace(**own)):
            worse.append(name)
    if worse:
        print(f"\nSomething is slower than it was: {', '.join(worse)}.")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
