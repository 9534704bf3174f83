"""Compiles generated source, so that debuggers and tracebacks can show it."""

from __future__ import annotations

import linecache
from typing import Any


def compiled(source: str, name: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Runs source in a scope and returns the scope. linecache keeps the source."""
    file = f"<fastconv: {name}, {hash(source):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(source, file, "exec"), scope)
    return scope
