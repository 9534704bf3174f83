"""Reports a measurement's progress to standard error, since stdout is for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class NoSuchName(ValueError):
    """A chosen name does not exist."""


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, file=sys.stderr, flush=True)


def each(items: Sequence[T], name: Callable[[T], str]) -> Iterator[T]:
    """Yields the items and announces each with its number and the seconds so far."""
    start = time.monotonic()
    for i, item in enumerate(items, 1):
        say(f"[{i}/{len(items)}, {time.monotonic() - start:.0f} s] {name(item)}")
        yield item


def collect(items: Sequence[T], name: Callable[[T], str], measure: Callable[[T], R]) -> list[R]:
    """The results of `measure` for each item. Ctrl-C ends it and keeps the earlier results."""
    results: list[R] = []
    try:
        for item in each(items, name):
            results.append(measure(item))
    except KeyboardInterrupt:
        if not results:
            raise
        say(f"interrupted: {len(results)} of {len(items)} are kept")
    return results


def matching(names: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """The names that equal one of the wanted texts or, if none does, contain it; all by default.

    Raises:
        NoSuchName: no name contains a text.
    """
    names = list(names)
    chosen: set[str] = set()
    for text in wanted or ():
        found = [name for name in names if name.lower() == text.lower()]
        found = found or [name for name in names if text.lower() in name.lower()]
        if not found:
            raise NoSuchName(f"{text!r} is in none of {', '.join(names)}")
        chosen.update(found)
    return [name for name in names if name in chosen or not wanted]
