"""Puts the tables of benchmarks/results into README.md and docs/, which so say what was measured.

    python benchmarks/readme_table.py            writes them
    python benchmarks/readme_table.py --check    fails where they say something else

blocks.json comes from `python benchmarks blocks --json`, overhead.json from
`python benchmarks overhead --json`; train-fastconv.json and train-torch.json are the metrics.json
of `fastconv train` and of `fastconv train --layers torch`. A table whose files are not there is
left alone; that of GPUs, from a gpu-<name>.json each (the gpu.json of gpu_check.py), says then that
nothing was measured.
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
README, DROP_IN = ROOT / "README.md", ROOT / "docs" / "drop_in.md"


def tables() -> dict[Path, dict[str, str]]:
    """The tables of those results that are there, by file and the name of their place."""
    found = {}
    found["gpu"] = gpu([json.loads(p.read_text()) for p in sorted(RESULTS.glob("gpu-*.json"))])
    if (RESULTS / "blocks.json").exists():
        found["blocks"] = table.summary(json.loads((RESULTS / "blocks.json").read_text()))
    files = {"fastconv": "train-fastconv.json", "torch.nn": "train-torch.json"}
    if all((RESULTS / file).exists() for file in files.values()):
        runs = {name: json.loads((RESULTS / file).read_text()) for name, file in files.items()}
        found["train"] = table.training(runs)
    overhead = RESULTS / "overhead.json"
    calls = (
        {"overhead": table.overhead(json.loads(overhead.read_text()))} if overhead.exists() else {}
    )
    return {README: found, DROP_IN: calls}


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
        raise ValueError(f"needs {begin} and {end}, once each")
    pattern = f"{re.escape(begin)}.*{re.escape(end)}"
    return re.sub(pattern, lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)


def main() -> int:
    """Writes or checks the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it would")
    arguments = parser.parse_args()
    different = []
    for file, contents in tables().items():
        before = after = file.read_text()
        for name, content in contents.items():
            after = fill(after, name, content)
        if after != before:
            different.append(str(file.relative_to(ROOT)))
            if not arguments.check:
                file.write_text(after)
    if arguments.check and different:
        print(
            f"{', '.join(different)} differ from benchmarks/results: run benchmarks/readme_table.py"
        )
    return int(arguments.check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
