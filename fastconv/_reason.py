"""Shortens another library's error to one line."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
