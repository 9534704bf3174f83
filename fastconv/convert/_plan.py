"""What `convert` will do with a model: worked out once, for it and for `explain`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch.nn import Module

from . import _batchnorm
from ._chains import Chain, calls_without_chain, chains_in_graph, chains_in_sequential
from ._forward import FusedForward, fused_code
from ._layers import BLOCKS, CONVS, PLAIN, is_free, is_plain_sequential
from ._reach import may_call
from ._trace import Trace, trace


@dataclass
class Plan:
    """The changes, none of them made yet, besides replaced layers; and what the report needs."""

    fold_batchnorm: bool
    blocks: list[tuple[Module, Chain]] = field(default_factory=list)
    """Chains that become one block in an nn.Sequential."""
    forwards: dict[Module, FusedForward] = field(default_factory=dict)
    """Modules that get a forward with fused chains."""
    folds: list[tuple[Module, Module]] = field(default_factory=list)
    """Convolutions and the BatchNorm layers that go into them."""
    chains: dict[Module, dict[bool, list[Chain]]] = field(default_factory=dict)
    """By module and `training`: the chains in `forwards`."""
    single: dict[int, str] = field(default_factory=dict)
    """By a convolution's id: why it is not fused."""
    calls: dict[Module, Counter[str]] = field(default_factory=dict)
    """ReLU and pool functions that stay torch's."""
    layer_calls: Counter[int] = field(default_factory=Counter)
    """By id: how often traced code calls a layer outside of chains."""
    untraced: dict[Module, str] = field(default_factory=dict)
    """Modules whose code gets no fused chains, and why."""


def make_plan(model: Module, fuse: bool, fold_batchnorm: bool) -> Plan:
    """Looks at a model without changing it."""
    if fold_batchnorm and any(module.training for module in model.modules()):
        raise ValueError("convert: fold_batchnorm needs a model in eval mode; call .eval() first")
    plan = Plan(fold_batchnorm)
    if not fuse and not fold_batchnorm:
        return plan
    traces = {module: trace(module) for module in model.modules() if _has_code(module)}
    plan.untraced = {module: found.reason for module, found in traces.items() if found.reason}
    graphs = [(module, graph) for module, found in traces.items() for graph in found.calls]
    callers: dict[int, str] = {}
    for module, found in traces.items():
        if found.hidden:
            why = f"not fused: {type(module).__name__}'s code may call it by itself"
            callers |= dict.fromkeys(may_call(module), why)
    if fold_batchnorm:
        plan.folds = _batchnorm.foldable(model, graphs, set(callers))
    folded = {id(bn) for _, bn in plan.folds}
    for module, graph in graphs:
        for node in graph.nodes:
            if node.op == "call_module":
                layer = id(module.get_submodule(node.target))
                callers[layer] = f"not fused here: {type(module).__name__}'s code calls its layers"
    if fuse:
        _plan_blocks(plan, model, callers, folded)
        spread = [m for m in model.modules() if isinstance(m, torch.nn.DataParallel)]
        copied = {id(module) for parent in spread for module in parent.modules()}
        for module, found in traces.items():
            why = _why_forward_stays(module, copied)
            _plan_forward(plan, module, found, folded, why)
        for module in plan.untraced:
            why = f"the code of {type(module).__name__} stays as it is"
            plan.single |= {id(c): why for c in module.children() if id(c) not in plan.single}
    return plan


def _has_code(module: Module) -> bool:
    """A module with code of its own above convolutions."""
    torchs = type(module).__module__.startswith("torch.")
    return (
        (not torchs or isinstance(module, torch.fx.GraphModule))
        and not is_plain_sequential(module)
        and not isinstance(module, tuple(PLAIN) + BLOCKS)
        and any(isinstance(child, torch.nn.Conv2d) for child in module.modules())
    )


def _plan_blocks(plan: Plan, model: Module, callers: dict[int, str], folded: set[int]) -> None:
    uses = Counter(id(child) for parent in model.modules() for child in parent._modules.values())
    for sequential in filter(is_plain_sequential, model.modules()):
        for layer in sequential:
            if is_free(layer, CONVS):
                plan.single.setdefault(id(layer), "no ReLU behind it")
        for chain in chains_in_sequential(sequential, folded):
            layers = (chain.conv, *(step.layer for step in chain.steps))
            why = next((callers[id(layer)] for layer in layers if id(layer) in callers), None)
            # A convolution used elsewhere too may be followed by something else there.
            if uses[id(chain.conv)] > 1:
                why = "not fused: used at several places"
            if why is None:
                plan.blocks.append((sequential, chain))
            else:
                plan.single[id(chain.conv)] = why


def _plan_forward(
    plan: Plan, module: Module, found: Trace, folded: set[int], why: str | None
) -> None:
    graphs = found.graphs
    chains = {training: chains_in_graph(graphs[training], module, folded) for training in graphs}
    if why is not None and any(chains.values()):
        plan.untraced[module] = why
        chains = {training: [] for training in graphs}
    outside: Counter[int] = Counter()
    for training, graph in graphs.items():
        fused = {part.node for chain in chains[training] for part in (chain, *chain.steps)}
        counted: Counter[int] = Counter()
        names = Counter(calls_without_chain(graph, chains[training]))
        plan.calls[module] = plan.calls.get(module, Counter()) | names
        for node in graph.nodes:
            if node.op == "call_module" and node not in fused:
                layer = id(module.get_submodule(node.target))
                counted[layer] += 1
                several = f"{len(node.users)} users of its value"
                why = several if len(node.users) > 1 else "no ReLU behind it"
                plan.single.setdefault(layer, why)
        outside |= counted
    plan.layer_calls += outside
    code = {
        training: fused_code(graphs[training], chains[training])
        for training in graphs
        if chains[training]
    }
    if code:
        plan.chains[module] = chains
        plan.forwards[module] = FusedForward(module, code, found.arguments, found.flags)


def _why_forward_stays(module: Module, copied: set[int]) -> str | None:
    """Where a copy of the module would keep a forward that belongs to the module itself."""
    if id(module) in copied:
        return "DataParallel copies it in its own way"
    kind = type(module)
    for method in ("__copy__", "__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__"):
        if getattr(kind, method, None) is not getattr(Module, method, None):
            return f"{kind.__name__} has a {method} of its own"
    return None
