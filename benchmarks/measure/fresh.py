"""Benchmarks that need a new process each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Modules are found from here, and ./fastconv is not, which would shadow what is installed.
BENCHMARKS = Path(__file__).resolve().parents[1]


def run(module: str, *arguments: object, **environment: str) -> Any:
    """What a module of the benchmarks, such as parts.memory, prints as its last line, as JSON.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=BENCHMARKS,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(map(str, arguments))}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
