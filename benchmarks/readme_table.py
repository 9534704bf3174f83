"""Puts the tables of benchmarks/results into README.md, so that it says what was measured.

    python benchmarks/readme_table.py            writes README.md
    python benchmarks/readme_table.py --check    fails where README.md says something else

blocks.json comes from `python benchmarks blocks --json`, train-fastconv.json and train-torch.json
are the metrics.json of `fastconv train` and of `fastconv train --layers torch`. A table whose files
are not there is left alone; that of GPUs, from a gpu-<name>.json each (the gpu.json of
gpu_check.py), says then that nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def tables() -> dict[str, str]:
    """The tables of those results that are there, by the name of their place."""
    found = {}
    found["gpu"] = gpu([json.loads(p.read_text()) for p in sorted(RESULTS.glob("gpu-*.json"))])
    if (RESULTS / "blocks.json").exists():
        found["blocks"] = table.summary(json.loads((RESULTS / "blocks.json").read_text()))
    files = {"fastconv": "train-fastconv.json", "torch.nn": "train-torch.json"}
    if all((RESULTS / file).exists() for file in files.values()):
        runs = {name: json.loads((RESULTS / file).read_text()) for name, file in files.items()}
        found["train"] = table.training(runs)
    return found


def gpu(reports: list[dict]) -> str:
    """The blocks' table of each GPU that was measured."""
    results = [report["parts"].get("blocks", {}).get("result", {}) for report in reports]
    return "\n\n".join(table.summary(r) for r in results if r.get("blocks")) or "Not measured."


def fill(text: str, name: str, content: str) -> str:
    """The text with what stands between the marks of this name replaced.

    Raises:
        ValueError: it has no such marks.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"README.md needs {begin} and {end}, once each")
    pattern = f"{re.escape(begin)}.*{re.escape(end)}"
    return re.sub(pattern, lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)


def main() -> int:
    """Writes or checks README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it would")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    before = after = readme.read_text()
    for name, content in tables().items():
        after = fill(after, name, content)
    if arguments.check:
        if after != before:
            print("README.md differs from benchmarks/results: run benchmarks/readme_table.py")
        return int(after != before)
    readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
