"""Runs one part of gpu_check.py in a process of its own, started in benchmarks/:

python -m gpu.child NAME FOLDER SECONDS [dry]
"""

from __future__ import annotations

import sys
from pathlib import Path

from gpu.budget import Budget
from gpu.report import Report


def main() -> None:
    """Runs the part that the command line names."""
    name, folder, seconds, *dry = sys.argv[1:]
    report = Report(Path(folder))
    if dry:
        from gpu.dry_run import PARTS
    else:
        from gpu.parts import PARTS
    budget = Budget(float(seconds))
    PARTS[name](lambda **result: report.write(name, **result), Path(folder), budget)


if __name__ == "__main__":
    main()
