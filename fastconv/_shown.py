"""Prints texts from outside, such as file names, safely on a terminal or in a shell."""

from __future__ import annotations

import os
import re
import shlex

_JOINERS = "\u200c\u200d"  # of scripts and emoji: they change letters, not the line


def shown(value: object) -> str:
    """The text on one line, with unprintable characters escaped as in Python.

    A byte of a file name that is not text in the system's encoding becomes \\xNN.
    """
    return "".join(c if c.isprintable() or c in _JOINERS else _escape(c) for c in str(value))


def shell_word(value: object) -> str:
    """A path as a word to paste into a shell. Escapes use bash's and zsh's $'...'.

    A path that begins with a dash gets ./ in front, else commands take it for an option.
    """
    text = str(value)
    if text.startswith("-"):
        text = f"./{text}"
    if shown(text) == text:
        return shlex.quote(text)
    plain = re.compile(rb"[^ -~]|['\\]")
    escaped = plain.sub(lambda found: b"\\x%02x" % found[0][0], os.fsencode(text))
    return f"$'{escaped.decode()}'"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that it could not decode
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
