"""Why something of another library failed, short enough for an error of one line."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
