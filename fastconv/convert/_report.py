"""The report that `explain` returns."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import torch
from torch.nn import Module

from .. import nn
from ._find_chains import Chain
from ._layers import BLOCKS, CONVS, OURS, has_hooks, has_own_forward, why_left
from ._plan import Plan

_NAMES = {kind.__name__ for kind in OURS}

_MEANINGS = {
    "fused": "one kernel with its neighbors",
    "converted": "a kernel of fastconv's by itself",
    "folded": "part of the convolution in front",
    "left alone": "as torch runs it",
}


@dataclass(frozen=True)
class Row:
    """One layer, or the functions that a module calls."""

    name: str
    layer: str
    becomes: str
    """fused, converted, folded or left alone."""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """The result of `convert` for each layer of a model; `print` it."""

    rows: list[Row]
    untraced: dict[str, str] = field(default_factory=dict)
    """Modules whose code is not searched for chains, and the reasons."""

    def __getitem__(self, name: str) -> Row:
        """The row of a layer, by its name in `model.named_modules()`."""
        return {row.name: row for row in self.rows}[name]

    def counts(self) -> Counter[str]:
        """The numbers of layers that are fused, converted, folded and left alone."""
        return Counter(row.becomes for row in self.rows)

    def __str__(self) -> str:
        cells = [("layer", "type", "becomes", "")]
        cells += [(row.name or "(model)", row.layer, row.becomes, row.note) for row in self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(3)] + [0]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
        counts = [f"{count} {becomes}" for becomes, count in self.counts().items()]
        lines += ["", ", ".join(counts) if counts else "nothing here for fastconv"]
        if counts:
            lines.append("; ".join(f"{word}: {_MEANINGS[word]}" for word in self.counts()))
        if self.untraced:
            lines += ["", "Code that stays as it is, layer by layer:"]
            names: dict[str, list[str]] = defaultdict(list)
            for name, reason in self.untraced.items():
                names[reason].append(name)
            for reason, (first, *others) in names.items():
                more = f" and {len(others)} more" if others else ""
                lines.append(f"  {first}{more}: {reason}")
        return "\n".join(line.rstrip() for line in lines)


def report(model: Module, plan: Plan) -> Report:
    """A plan in words."""
    names = {id(module): name for name, module in model.named_modules()}
    notes = _fused_notes(plan, names)
    folds = {id(bn): names[id(conv)] for conv, bn in plan.folds}
    rows = []
    for name, module in model.named_modules():
        row = _row(module, plan, notes.get(id(module)), folds.get(id(module)))
        if row is not None:
            rows.append(Row(name, type(module).__name__, *row))
        calls = plan.calls.get(module)
        if calls:
            text = ", ".join(f"{count} {call}" for call, count in calls.items())
            forward = f"{name}.forward" if name else "forward"
            rows.append(Row(forward, text, "left alone", "torch's: no convolution to join"))
    untraced = {
        f"{names[id(module)] or '(model)'} ({type(module).__name__})": why
        for module, why in plan.untraced.items()
    }
    return Report(rows, untraced)


def _row(
    module: Module, plan: Plan, note: str | None, folded: str | None
) -> tuple[str, ...] | None:
    kind = type(module)
    if folded is not None:
        return "folded", f"into {folded}"
    if isinstance(module, nn.FoldedBatchNorm2d):
        return "folded", "into the convolution before"
    if note is not None:
        return "fused", note
    if kind in BLOCKS:
        return "fused", "one block"
    if kind is torch.nn.BatchNorm2d and plan.fold_batchnorm:
        return "left alone", "does not stand behind one convolution only"
    if isinstance(module, torch.jit.ScriptModule) and module.original_name in _NAMES:
        return "left alone", f"TorchScript's {module.original_name}"
    if kind.__module__.startswith("torch.ao.") and kind.__name__ in _NAMES:
        return "left alone", "quantized"
    if not isinstance(module, tuple(OURS)):
        return None
    if kind not in (*OURS, *OURS.values()) or has_own_forward(module):
        return "left alone", why_left(module)
    if has_hooks(module):
        return "converted", "has hooks, so it is not fused"
    return "converted", plan.single.get(id(module), "") if isinstance(module, CONVS) else ""


def _fused_notes(plan: Plan, names: dict[int, str]) -> dict[int, str]:
    """A note on each fused layer's partners, by its id."""
    parts: dict[int, list[str]] = defaultdict(list)
    for sequential, chains in plan.sequentials.items():
        prefix = f"{names[id(sequential)]}." if names[id(sequential)] else ""
        for chain in filter(Chain.is_free, chains):
            _note_chain(parts, chain, prefix, "")
            hidden = plan.hidden_calls.get(id(chain.conv))
            if hidden is not None:
                parts[id(chain.conv)].append(f"{hidden}'s code may call it by itself")
    for module, by_mode in plan.chains.items():
        prefix = f"{names[id(module)]}." if names[id(module)] else ""
        modes: dict[tuple[str, ...], set[bool]] = defaultdict(set)
        by_key: dict[tuple[str, ...], Chain] = {}
        for training, own in by_mode.items():
            for chain in filter(Chain.is_free, own):
                key = (chain.name, *(step.name for step in chain.steps))
                modes[key].add(training)
                by_key[key] = chain
        for key, chain in by_key.items():
            mode = (
                "" if len(modes[key]) == 2 else " in training" if True in modes[key] else " in eval"
            )
            _note_chain(parts, chain, prefix, f"{mode}, in the forward of {type(module).__name__}")
    also = {i: "; also called by itself" for i in parts if plan.layer_calls[i]}
    return {id_: "; ".join(dict.fromkeys(p)) + also.get(id_, "") for id_, p in parts.items()}


def _note_chain(parts: dict[int, list[str]], chain: Chain, prefix: str, where: str) -> None:
    steps = chain.others()
    texts = [s.name if s.layer is None else f"{prefix}{s.name}" for s in steps]
    parts[id(chain.conv)].append(f"with {' and '.join(texts)}{where}")
    for step in steps:
        if step.layer is not None:
            parts[id(step.layer)].append(f"behind {prefix}{chain.name}{where}")
