"""Code that is made of text, as debuggers and tracebacks want it."""

from __future__ import annotations

import linecache
from typing import Any


def compiled(source: str, name: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Runs source in a scope and returns the scope; the source can be looked up afterwards."""
    file = f"<fastconv: {name}, {hash(source):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(source, file, "exec"), scope)
    return scope
