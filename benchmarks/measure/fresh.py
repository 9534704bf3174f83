"""Runs a benchmark in a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# From here Python finds the modules, but not ./fastconv, which would shadow the installed package.
BENCHMARKS = Path(__file__).resolve().parents[1]


def run(module: str, *arguments: object, **environment: str) -> Any:
    """Runs a module of the benchmarks, such as parts.memory, and reads its last line as JSON.

    Raises:
        RuntimeError: the process failed; the message has its output.
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
