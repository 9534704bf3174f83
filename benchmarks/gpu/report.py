"""Writes the results of gpu_check.py, gpu.json and gpu.md, after every step."""

from __future__ import annotations

import json
import os
from pathlib import Path

from show import table


class Report:
    """Results by part. One process writes at a time, and reads the last one's results first."""

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self._json, self._text = folder / "gpu.json", folder / "gpu.md"
        self.parts: dict[str, dict] = {}
        if self._json.exists() and not fresh:
            self.parts = json.loads(self._json.read_text())["parts"]

    def write(self, part: str, **result: object) -> None:
        """Sets a part's results and writes everything to disk."""
        self.parts[part] = {**self.parts.get(part, {}), **result}
        _replace(self._json, json.dumps({"parts": self.parts}, indent=1) + "\n")
        _replace(self._text, text(self.parts))


def _replace(path: Path, content: str) -> None:
    """Replaces a file atomically, so a whole file exists whenever this is killed."""
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(content)
    os.replace(new, path)


def text(parts: dict[str, dict]) -> str:
    """The results as Markdown."""
    sections = ["# gpu_check.py", _overview(parts)]
    for name, part in parts.items():
        problems = [f"- {line}" for line in part.get("problems", [])]
        if problems:
            sections += [f"## {name}: what is wrong", "\n".join(problems)]
    blocks = parts.get("blocks", {}).get("result", {})
    if blocks.get("blocks"):
        sections += ["## Blocks", table.summary(blocks), "## Every variant", table.details(blocks)]
    layers = parts.get("layers", {}).get("result", {})
    if layers.get("layers"):
        sections += ["## Layers", table.layers(layers)]
    sweep = parts.get("sweep", {}).get("result", {})
    if sweep.get("layers"):
        sections += ["## Variants", table.sweep(sweep)]
    return "\n\n".join(sections) + "\n"


def _overview(parts: dict[str, dict]) -> str:
    lines = ["| part | status | what | seconds |", "| --- | --- | --- | ---: |"]
    for name, part in parts.items():
        what = str(part.get("summary", "")).replace("|", "/").replace("\n", " ")
        seconds = f"{part['seconds']:.0f}" if "seconds" in part else ""
        lines.append(f"| {name} | {part['status']} | {what} | {seconds} |")
    return "\n".join(lines)
