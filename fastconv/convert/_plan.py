"""A plan is the list of changes to a model, made for both `convert` and `explain`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch.nn import Module

from .. import nn
from . import _batchnorm
from ._between import behind_in_graph, behind_in_sequential, why_alone
from ._code import Code, CodeForward, code_with_chains
from ._find_chains import Chain, calls_without_chain, chains_in_graph, chains_in_sequential
from ._layers import BLOCKS, CONVS, OURS, is_plain_sequential, is_single
from ._reach import may_call
from ._trace import Trace, trace


@dataclass
class Plan:
    """The planned changes, except those of single layers, and the data for the report."""

    fold_batchnorm: bool
    sequentials: dict[Module, list[Chain]] = field(default_factory=dict)
    """Each nn.Sequential with chains."""
    codes: dict[Module, Code] = field(default_factory=dict)
    """Modules whose code has chains."""
    folds: list[tuple[Module, Module]] = field(default_factory=list)
    """Convolutions and the BatchNorm layers that are folded into them."""
    chains: dict[Module, dict[bool, list[Chain]]] = field(default_factory=dict)
    """The chains in `codes`, by module and `training`."""
    single: dict[int, str] = field(default_factory=dict)
    """The reason why a convolution is not fused, by its id."""
    calls: dict[Module, Counter[str]] = field(default_factory=dict)
    """ReLU and pool functions that remain torch's."""
    layer_calls: Counter[int] = field(default_factory=Counter)
    """How often traced code calls a layer outside of chains, by its id."""
    hidden_calls: dict[int, str] = field(default_factory=dict)
    """The type of a module whose untraced code may call a layer by itself, by the layer's id."""
    untraced: dict[Module, str] = field(default_factory=dict)
    """Modules whose code gets no fused chains, and the reasons."""


def make_plan(model: Module, fuse: bool, fold_batchnorm: bool) -> Plan:
    """Makes the plan without changing the model."""
    if fold_batchnorm and any(module.training for module in model.modules()):
        raise ValueError("convert: fold_batchnorm needs a model in eval mode; call .eval() first")
    plan = Plan(fold_batchnorm)
    if not fuse and not fold_batchnorm:
        return plan
    traces = {module: trace(module) for module in model.modules() if _has_code(module)}
    plan.untraced = {module: found.reason for module, found in traces.items() if found.reason}
    graphs = [(module, graph) for module, found in traces.items() for graph in found.calls]
    for module, found in traces.items():
        if found.hidden:
            plan.hidden_calls |= dict.fromkeys(may_call(module), type(module).__name__)
    if fold_batchnorm:
        plan.folds = _batchnorm.foldable(model, graphs, set(plan.hidden_calls))
    if fuse:
        folded = {id(bn) for _, bn in plan.folds}
        paths = {id(module): name for name, module in model.named_modules()}
        _plan_sequentials(plan, model, folded, paths)
        for module, found in traces.items():
            _plan_code(plan, module, found, folded, paths)
        _drop_stale(plan, model)
        for module in plan.untraced:
            why = f"the code of {type(module).__name__} stays as it is"
            plan.single |= {id(c): why for c in module.children() if id(c) not in plan.single}
    return plan


def _drop_stale(plan: Plan, model: Module) -> None:
    """Drops a converted model's code whose reads have changed; the class's forward runs then."""
    for module in model.modules():
        forward = vars(module).get("forward")
        code = forward.code if isinstance(forward, CodeForward) else None
        if code is not None and not code.holds(module):
            plan.chains.pop(module, None)
            plan.untraced[module] = "what it reads has changed since convert; convert it again"


def _has_code(module: Module) -> bool:
    """Whether a module has its own code and convolutions below it."""
    torchs = type(module).__module__.startswith("torch.")
    return (
        (not torchs or isinstance(module, torch.fx.GraphModule))
        and not is_plain_sequential(module)
        and not isinstance(module, (*OURS, *BLOCKS))
        and any(isinstance(child, torch.nn.Conv2d) for child in module.modules())
    )


def _plan_sequentials(plan: Plan, model: Module, folded: set[int], paths: dict[int, str]) -> None:
    for sequential in filter(is_plain_sequential, model.modules()):
        layers = list(sequential)
        for place, layer in enumerate(layers):
            if is_single(layer, CONVS):
                behind = behind_in_sequential(layers[place + 1 :], paths)
                plan.single.setdefault(id(layer), why_alone(behind, folded, plan.fold_batchnorm))
        chains = chains_in_sequential(sequential, folded)
        if chains:
            plan.sequentials[sequential] = chains


def _plan_code(
    plan: Plan, module: Module, found: Trace, folded: set[int], paths: dict[int, str]
) -> None:
    graphs = found.graphs
    chains = {training: chains_in_graph(graphs[training], module, folded) for training in graphs}
    outside: Counter[int] = Counter()
    for training, graph in graphs.items():
        fused = {chain.node for chain in chains[training]}
        fused |= {step.node for chain in chains[training] for step in chain.steps}
        counted: Counter[int] = Counter()
        names = Counter(calls_without_chain(graph, chains[training]))
        plan.calls[module] = plan.calls.get(module, Counter()) | names
        for node in graph.nodes:
            if node.op == "call_module" and node not in fused:
                layer = module.get_submodule(node.target)
                counted[id(layer)] += 1
                if len(node.users) > 1:
                    why = f"{len(node.users)} users of its value"
                elif is_single(layer, CONVS):
                    behind = behind_in_graph(node, module, paths)
                    why = why_alone(behind, folded, plan.fold_batchnorm)
                else:
                    continue
                plan.single.setdefault(id(layer), why)
        outside |= counted
    plan.layer_calls += outside

    def type_of(layer: Module) -> type:
        return nn.FoldedBatchNorm2d if id(layer) in folded else type(layer)

    code = code_with_chains(module, found, chains, type_of)
    if code is not None:
        plan.chains[module] = chains
        plan.codes[module] = code
