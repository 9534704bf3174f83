"""Adding an operation: one call of `define` with its schema and five functions.

It gives a function that takes the short way for plain eager calls, an old-style autograd.Function
(or, without gradients, nothing at all) over the kernels, and for all else the operator registered
with torch.library:

    plain eager call                            forward(*args), inside Short if a gradient is wanted
    forward AD                                  fallback(*args), torch's own operators
    torch.func (grad, vmap, ...)                General, a setup_context-style Function over the op
    compile, export, FakeTensor, tracing, ...   torch.ops.fastconv.<name>, autograd registered

All of them share one `save` and one `backward`. Two ways because a setup_context-style Function
costs 34 us a call and an old-style one, which none of the rest can use, a few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import _eager

_library = torch.library.Library("fastconv", "DEF")


def define(
    schema: str,
    *,
    tensors: int,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    save: Callable[[Any, Sequence[Any], Any], None],
    backward: Callable[..., Sequence[Tensor | None]],
    fallback: Callable[..., Any],
    fold: Sequence[int] = (),
) -> Callable[..., Any]:
    """Registers `fastconv::<schema>` and returns the function to call it with.

    Args:
        schema: torch.library's, with the tensor arguments first.
        tensors: how many arguments are tensors (or None).
        forward: computes the outputs from plain tensors; an output that is not wanted is None.
        fake: the outputs' sizes, strides and dtypes, for FakeTensors.
        save: `save(ctx, args, output)`, keeps what the backward pass needs.
        backward: `backward(ctx, *grads)`, the gradients of the tensor arguments, made of
            differentiable operations only.
        fallback: the same operation made of torch's own operators, for forward AD.
        fold: the tensor arguments whose first dimension is N. Where vmap maps only over these,
            its dimension joins N; elsewhere the samples are computed one by one.
    """
    name = schema[: schema.index("(")]
    title = "".join(part.capitalize() for part in name.split("_"))
    qualified = f"fastconv::{name}"

    def save_quietly(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.arguments = len(inputs)
        save(ctx, inputs, output)

    def backward_padded(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grads):
            return (None,) * ctx.arguments
        found = backward(ctx, *grads)
        return (*found, *(None,) * (ctx.arguments - tensors))

    def kernel(*args: Any) -> Any:
        output = forward(*args)
        if not isinstance(output, tuple):
            return output
        # An operator returns tensors; what was not asked for is empty.
        return tuple(args[0].new_empty(0) if part is None else part for part in output)

    _library.define(schema)
    _library.impl(name, kernel, "CPU")
    torch.library.register_fake(qualified, fake, lib=_library)
    torch.library.register_autograd(
        qualified, backward_padded, setup_context=save_quietly, lib=_library
    )
    op = getattr(torch.ops.fastconv, name).default
    torch.library.register_vmap(qualified, _vmap_rule(op, tensors, fold), lib=_library)

    def short_forward(ctx: Any, *args: Any) -> Any:
        output = forward(*args)
        save_quietly(ctx, args, output)
        return output

    short = type(
        title,
        (Function,),
        {"forward": staticmethod(short_forward), "backward": staticmethod(backward_padded)},
    )
    general = type(
        title + "General",
        (Function,),
        {
            "forward": staticmethod(lambda *args: op(*args)),
            "setup_context": staticmethod(save_quietly),
            "backward": staticmethod(backward_padded),
            "vmap": staticmethod(_vmap_rule(lambda *args: call(*args), tensors, fold)),
        },
    )
    apply_short, apply_general = short.apply, general.apply
    plain_types, quiet, is_grad_enabled = _eager.PLAIN_TYPES, _eager.quiet, torch.is_grad_enabled

    def call(*args: Any) -> Any:
        if not quiet():
            return call_general(*args)
        wanted = False
        for tensor in args[:tensors]:
            if tensor is not None:
                if type(tensor) not in plain_types or not tensor.is_cpu or tensor.is_neg():
                    return call_general(*args)
                wanted = wanted or tensor.requires_grad
        try:
            return apply_short(*args) if wanted and is_grad_enabled() else forward(*args)
        except RuntimeError:
            # A tensor may wrap another one that only torch's dispatcher finds; asked only now
            # because asking takes time.
            if any(map(_eager.is_wrapper, args[:tensors])):
                return call_general(*args)
            raise

    def call_general(*args: Any) -> Any:
        if _eager.forward_ad_active():
            return fallback(*args)
        if _eager.functorch_active():
            return apply_general(*args)
        return op(*args)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"fastconv::{schema}"
    return call


def _vmap_rule(call: Callable[..., Any], tensors: int, fold: Sequence[int]) -> Callable[..., Any]:
    """What vmap does with an operation that knows nothing of its extra dimension."""

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
        mapped = [i for i in range(tensors) if args[i] is not None and in_dims[i] is not None]
        moved = list(args)
        for i in mapped:
            moved[i] = args[i].movedim(in_dims[i], 0)
        if all(i in fold for i in mapped):
            for i in mapped:
                moved[i] = moved[i].flatten(0, 1)
            output = call(*moved)
            parts = output if isinstance(output, tuple) else (output,)
            parts = tuple(_unfold(part, info.batch_size) for part in parts)
        else:
            samples = []
            for b in range(info.batch_size):
                sample = [moved[i][b] if i in mapped else arg for i, arg in enumerate(args)]
                output = call(*sample)
                samples.append(output if isinstance(output, tuple) else (output,))
            parts = tuple(
                None if part[0] is None else torch.stack(part)
                for part in zip(*samples, strict=True)
            )
        dims = tuple(None if part is None else 0 for part in parts)
        return (parts, dims) if isinstance(output, tuple) else (parts[0], dims[0])

    return rule


def _unfold(part: Tensor | None, batch: int) -> Tensor | None:
    if part is None or part.dim() == 1:  # not asked for
        return None if part is None else part.expand(batch, -1)
    return part.unflatten(0, (batch, -1))


def saves(*tensors: Tensor | None) -> bool:
    """Whether an operation on these tensors may have to keep something for a backward pass."""
    if not torch.compiler.is_compiling() and _eager.functorch_active():
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
