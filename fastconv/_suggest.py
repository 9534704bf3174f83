"""Suggests known names for a misspelled one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names most similar to a typed one, ignoring case; [] if none is similar."""
    names = {other.lower(): other for other in known}
    return [names[other] for other in difflib.get_close_matches(name.lower(), names, most)]


def did_you_mean(names: Iterable[str]) -> str:
    """The end of an error's line that suggests names; "" without names."""
    text = " or ".join(names)
    return f", did you mean {text}?" if text else ""
