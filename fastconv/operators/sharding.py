"""The operators' shardings for DTensor: over the batch, for a lone max-pool over channels too.

They are registered when the first DTensor may have come, since importing it takes half a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..torch_internals import PLAIN_TYPES, constant, operators

# The arguments with N in front. Weights and biases are whole everywhere.
_BATCHED = frozenset(("x", "dy", "code"))
_told = False


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor."""
    if type(tensor) in PLAIN_TYPES:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


@constant
def tell_dtensor() -> None:
    """Registers the operators' shardings, once, if anyone has loaded DTensor."""
    global _told
    if not _told and "torch.distributed.tensor" in sys.modules:
        _told = True
        _register()


def _register() -> None:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
    from torch.distributed.tensor.experimental import register_sharding

    propagator = DTensor._op_dispatcher.sharding_propagator
    for op in operators():
        register_sharding(op)(_shardings(op))
        # All arguments but tensors are part of DTensor's cache: register_sharding forgets lists.
        tensors = sum("Tensor" in str(argument.type) for argument in op._schema.arguments)
        propagator.op_to_schema_info[op] = RuntimeSchemaInfo(tensors, needs_pytree=True)


def _shardings(op: Any) -> Callable[..., Any]:
    """For register_sharding, the placements of outputs and tensor arguments that fit together."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    arguments = [a.name for a in op._schema.arguments if "Tensor" in str(a.type)]
    returns = len(op._schema.returns)

    def shardings(*args: Any) -> list[tuple[list[Any], list[Any]]]:
        given = [name for name, arg in zip(arguments, args, strict=False) if arg is not None]
        fitting: list[tuple[list[Any], list[Any]]] = [
            ([Replicate()] * returns, [Replicate()] * len(given))
        ]
        # ReLU's mask is bits in the order of memory, which nobody can cut.
        if op._opname.startswith("relu"):
            return fitting
        output = Partial() if op._opname.endswith("wgrad") else Shard(0)
        inputs = [Shard(0) if name in _BATCHED else Replicate() for name in given]
        fitting.append(([output] * returns, inputs))
        if op._opname.startswith("max_pool2d"):
            fitting.append(([Shard(1)] * returns, [Shard(1)] * len(given)))
        return fitting

    return shardings
