"""Benchmarks that need a new process each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(script: str, *arguments: object, **environment: str) -> Any:
    """What a Python file of this folder prints as its last line, as JSON.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    path = Path(script).resolve()
    command = [sys.executable, str(path), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as elsewhere:  # ./fastconv would shadow what is installed
        done = subprocess.run(
            command,
            cwd=elsewhere,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"{path.name} {' '.join(map(str, arguments))}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
