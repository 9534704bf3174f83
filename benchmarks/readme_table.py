"""Writes the tables of benchmarks/results into README.md and docs/.

    python benchmarks/readme_table.py            writes them
    python benchmarks/readme_table.py --check    fails if they differ

blocks.json, layers.json, networks.json, memory.json, sweep.json and overhead.json come from
`python benchmarks all --json benchmarks/results`, blocks-64.json from
`python benchmarks blocks --batch 64 --no-compile`, install.json from
`python benchmarks/install_times.py`; train-fastconv.json and train-torch.json are the metrics.json
of `fastconv train` and `fastconv train --layers torch`. layers.json and sweep.json are also drawn.
Other CPUs have a folder each, cpu-<name>, of the same files, and of those of `--dtype bfloat16`
under names such as blocks-bfloat16.json. GPUs have a gpu-<name>.json each, the gpu.json of
gpu_check.py. If a file is missing, its table says that nothing was measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from parts import layers, memory, networks, sweep
from show import headline, plot, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README, DOCS = ROOT / "README.md", ROOT / "docs"
RESULTS_PAGE, GUIDE, DROP_IN = DOCS / "results.md", DOCS / "guide.md", DOCS / "drop_in.md"

# Results that are also drawn, each as a picture of the same name.
PICTURES: dict[str, tuple[str, Callable[[Path, dict, str], None]]] = {
    "layers": ("Every layer in a picture", plot.layers),
    "sweep": ("How often each speedup occurs", plot.histograms),
}


def _with_picture(name: str, text: str) -> str:
    return f"{text}\n\n![{PICTURES[name][0]}](../benchmarks/results/{name}.png)"


# The tables of each part's result, and their files.
PARTS: dict[str, tuple[Path, Callable[[dict], str]]] = {
    "blocks": (RESULTS_PAGE, table.summary),
    "blocks-64": (RESULTS_PAGE, table.summary),
    "layers": (RESULTS_PAGE, lambda result: _with_picture("layers", layers.summary(result))),
    "sweep": (RESULTS_PAGE, lambda result: _with_picture("sweep", sweep.text(result))),
    "networks": (RESULTS_PAGE, networks.summary),
    "memory": (RESULTS_PAGE, memory.summary),
    "overhead": (DROP_IN, table.overhead),
    "install": (GUIDE, table.install),
}
NOTHING = "Not measured."


def _file(name: str) -> Path:
    return RESULTS / f"{name}.json"


def tables() -> dict[Path, dict[str, str]]:
    """The tables of the results, by file and by the name of their marks."""
    found: dict[Path, dict[str, str]] = {f: {} for f in (README, RESULTS_PAGE, GUIDE, DROP_IN)}
    results = {
        name: json.loads(file.read_text()) for name in PARTS if (file := _file(name)).exists()
    }
    for name, (page, text) in PARTS.items():
        found[page][name] = text(results[name]) if name in results else NOTHING
    machines = [measured for folder in [RESULTS, *_other_cpus()] if (measured := _parts_in(folder))]
    found[README]["summary"] = headline.headline(machines) if machines else NOTHING
    found[RESULTS_PAGE]["cpus"] = other_cpus()
    found[RESULTS_PAGE]["gpu"] = gpu(
        [json.loads(p.read_text()) for p in sorted(RESULTS.glob("gpu-*.json"))]
    )
    files = {"fastconv": "train-fastconv.json", "torch.nn": "train-torch.json"}
    runs = {name: RESULTS / file for name, file in files.items()}
    if all(file.exists() for file in runs.values()):
        metrics = {name: json.loads(file.read_text()) for name, file in runs.items()}
        found[README]["train"] = table.training(metrics)
    return found


def _other_cpus() -> list[Path]:
    return sorted(RESULTS.glob("cpu-*"))


def _parts_in(folder: Path) -> dict[str, dict]:
    """The results of the small table's parts in a folder."""
    files = {name: folder / f"{name}.json" for name in headline.FILES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


# What the page of results shows of another CPU.
CPU_PARTS: dict[str, Callable[[dict], str]] = {
    "blocks": table.summary,
    "blocks-bfloat16": table.summary,
    "layers": layers.summary,
    "layers-bfloat16": layers.summary,
    "sweep": sweep.summary,
    "sweep-bfloat16": sweep.summary,
}


def other_cpus() -> str:
    """The tables of the other CPUs, one after another."""
    files = [(f / f"{name}.json", text) for f in _other_cpus() for name, text in CPU_PARTS.items()]
    found = [text(json.loads(file.read_text())) for file, text in files if file.exists()]
    return "\n\n".join(found) or NOTHING


def picture(name: str, draw: bool) -> bool:
    """Whether a picture shows its results. With `draw`, draws it again if not."""
    results, image = _file(name), RESULTS / f"{name}.png"
    if not results.exists():
        return True
    source = hashlib.sha256(results.read_bytes()).hexdigest()
    right = plot.source_of(image) == source
    if draw and not right:
        PICTURES[name][1](image, json.loads(results.read_text()), source)
    return right


def gpu(reports: list[dict]) -> str:
    """The blocks' table of each measured GPU."""
    results = [report["parts"].get("blocks", {}).get("result", {}) for report in reports]
    return "\n\n".join(table.summary(r) for r in results if r.get("blocks")) or NOTHING


def fill(text: str, name: str, content: str) -> str:
    """The text with new content between the marks of this name.

    Raises:
        ValueError: the text has no such marks.
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
    different += [
        f"benchmarks/results/{name}.png"
        for name in PICTURES
        if not picture(name, draw=not arguments.check)
    ]
    if arguments.check and different:
        print(
            f"{', '.join(different)} differ from benchmarks/results: run benchmarks/readme_table.py"
        )
    return int(arguments.check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
