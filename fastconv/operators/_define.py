"""Adding an operation: one call of `define` with its schema and five functions.

It gives a function that takes the short way for plain eager calls, an old-style autograd.Function
(or, without gradients, nothing at all) over the kernels, and for all else the operator registered
with torch.library:

    plain eager call                            forward(*args), inside Short if a gradient is wanted
    forward AD, functionalize, ... (1)          fallback(*args), torch's own operators
    torch.func (grad, vmap, ...)                General, a setup_context-style Function over the op
    compile, export, FakeTensor, tracing, ...   torch.ops.fastconv.<name>, autograd registered

(1) `_eager.needs_torch` says where: torch.func inside a compiler too.

All of them share one `save` and one `backward`. Two ways because a setup_context-style Function
costs 34 us a call and an old-style one, which none of the rest can use, a few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import _eager
from ._sharding import tell_dtensor

# What comes of a tensor without memory: torch has no address for it, or `_C` refuses address 0. A
# slice has another address, so tensors with an offset are asked before.
_REFUSED = (RuntimeError, ValueError)

has_no_memory, any_without_memory = _eager.has_no_memory, _eager.any_without_memory

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
    code: bool = False,
    fold: Sequence[int] = (),
    bind: Callable[..., Callable[..., Any]] | None = None,
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
        fallback: the same operation made of torch's own operators.
        code: the operation gives y and a code, which is kept for the backward pass only. Whether
            it is wanted is the last argument of schema, `forward` and `fake` (`bool save`), which
            is filled in here: the function that is returned does without it and gives y alone, its
            attribute `with_code` both. `fallback` and `backward` know y alone.
        fold: the tensor arguments whose first dimension is N. Where vmap maps over some of these
            only, its dimension joins N; elsewhere the samples are computed one by one.
        bind: `bind(*args)` gives `forward` as a function of the tensors alone, for tensors of the
            same forms as these.
    """
    name = schema[: schema.index("(")]
    qualified = f"fastconv::{name}"
    kept, unkept = ((True,), (False,)) if code else ((), ())

    def expect_one_device(args: Sequence[Any]) -> None:
        device = args[0].device
        for tensor in args[1:tensors]:
            if tensor is not None and tensor.device != device:
                raise RuntimeError(
                    f"{qualified}: all tensors must be on one device, got {device} and "
                    f"{tensor.device}"
                )

    def kernel(*args: Any) -> Any:
        expect_one_device(args)
        if any_without_memory(args[:tensors]):
            raise RuntimeError(f"{qualified}: the memory of a tensor was freed")
        output = forward(*args)
        if not isinstance(output, tuple):
            return output
        # An operator returns tensors; what was not asked for is empty.
        return tuple(args[0].new_empty(0) if part is None else part for part in output)

    def checked_fake(*args: Any) -> Any:
        expect_one_device(args)
        return fake(*args)

    _library.define(schema)
    _library.impl(name, kernel, "CPU")
    _library.impl(name, kernel, "CUDA")
    torch.library.register_fake(qualified, checked_fake, lib=_library)
    op = getattr(torch.ops.fastconv, name).default
    others = len(op._schema.arguments) - tensors - len(kept)

    def gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None and all(grad is None for grad in grads):
            return (None,) * (tensors + others)
        return (*backward(ctx, *grads), *(None,) * others)

    class Short(Function):
        """Its last argument is `forward`, or that bound to the other arguments."""

        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            *args, function = args
            output = function(*args, *kept) if function is forward else function(*args[:tensors])
            ctx.set_materialize_grads(False)
            save(ctx, args, output)
            return output[0] if code else output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            return (*gradients(ctx, *grads), None)

    class General(Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return op(*args, *kept)

        @staticmethod
        def setup_context(ctx: Any, args: Sequence[Any], output: Any) -> None:
            ctx.set_materialize_grads(False)
            if code:
                ctx.mark_non_differentiable(output[1])
            save(ctx, args, output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return gradients(ctx, *(grads[:1] if code else grads))

        @staticmethod
        def vmap(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
            return _vmap(with_code, tensors, fold, info, in_dims, args)

    # The operator's own autograd: as General's, but for the argument `save`.
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        ctx.kept = not code or inputs[-1]
        General.setup_context(ctx, inputs[:-1] if code else inputs, output)

    def registered_backward(ctx: Any, *grads: Tensor | None) -> Any:
        if not ctx.kept:
            raise RuntimeError(
                f"{qualified}: this graph was made without gradients, so nothing was kept for a "
                "backward pass; make it again with inputs or parameters that require grad"
            )
        return (*General.backward(ctx, *grads), *(None,) * len(kept))

    torch.library.register_autograd(
        qualified, registered_backward, setup_context=setup_context, lib=_library
    )
    torch.library.register_vmap(
        qualified,
        lambda info, in_dims, *args: _vmap(op, tensors, fold, info, in_dims, args),
        lib=_library,
    )

    Short.__name__ = "".join(part.capitalize() for part in name.split("_"))  # seen as grad_fn
    # Function.apply itself does for torch.func what `call` does already, for 1 us more.
    apply_short, apply_general = super(Function, Short).apply, General.apply
    plain_types, is_grad_enabled = _eager.PLAIN_TYPES, torch.is_grad_enabled
    quiet, profiling = _eager.quiet, _eager.profiling

    def run(wanted: bool, args: Sequence[Any]) -> Any:
        if wanted and is_grad_enabled():
            return apply_short(*args, forward)
        return forward(*args, *unkept)[0] if code else forward(*args)

    def call(*args: Any) -> Any:
        if not quiet():
            return call_general(*args)
        wanted, place = False, None
        for tensor in args[:tensors]:
            if tensor is not None:
                if (
                    type(tensor) not in plain_types
                    or not (tensor.is_cpu or tensor.is_cuda)
                    or tensor.is_neg()
                    or (tensor.storage_offset() and has_no_memory(tensor))
                ):
                    return call_general(*args)
                if place is None:
                    place = tensor.get_device()
                elif place != tensor.get_device():
                    expect_one_device(args)
                wanted = wanted or tensor.requires_grad
        try:
            if not profiling():
                return run(wanted, args)
            with torch.profiler.record_function(qualified):  # as the dispatcher does
                return run(wanted, args)
        except _REFUSED:
            # A tensor may have no memory, which only torch's dispatcher can deal with. Asked only
            # now, because asking takes time.
            if any_without_memory(args[:tensors]):
                return call_general(*args)
            raise

    def bound(*args: Any) -> Callable[..., Any]:
        """A function of the tensors alone, for plain ones of the same forms, grad mode or not."""
        rest = args[tensors:]
        if bind is None:
            # Not of `args`: that would keep the tensors.
            plain, saving = (partial(_append, forward, (*rest, *flag)) for flag in (unkept, kept))
        else:
            plain, saving = bind(*args, *unkept), bind(*args, *kept)
        wanted = any(tensor is not None and tensor.requires_grad for tensor in args[:tensors])

        def known(*given: Any) -> Any:
            for tensor in given:
                if tensor is not None and tensor.storage_offset() and has_no_memory(tensor):
                    return call_general(*given, *rest)
            try:
                if wanted and is_grad_enabled():
                    return apply_short(*given, *rest, saving)
                return plain(*given)[0] if code else plain(*given)
            except _REFUSED:
                if any_without_memory(given):
                    return call_general(*given, *rest)
                raise

        return known

    def call_general(*args: Any) -> Any:
        if _eager.needs_torch():
            return fallback(*args)
        tell_dtensor()
        if _eager.functorch_active():
            output = apply_general(*args)
        else:
            # A traced graph may be differentiated later, and torch traces it twice to compare.
            wanted = _eager.tracing() or (
                is_grad_enabled()
                and any(tensor is not None and tensor.requires_grad for tensor in args[:tensors])
            )
            output = op(*args, *(kept if wanted else unkept))
        return output[0] if code else output

    def with_code(*args: Any) -> Any:
        return apply_general(*args) if _eager.functorch_active() else op(*args, *kept)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"fastconv::{schema}"
    call.with_code = with_code  # type: ignore[attr-defined]
    call.bound = bound  # type: ignore[attr-defined]
    return call


def _append(function: Callable[..., Any], rest: Sequence[Any], *tensors: Any) -> Any:
    return function(*tensors, *rest)


def _vmap(
    call: Callable[..., Any],
    tensors: int,
    fold: Sequence[int],
    info: Any,
    in_dims: Sequence[Any],
    args: Sequence[Any],
) -> tuple[Any, Any]:
    """What vmap does with an operation that knows nothing of its extra dimension."""
    mapped = [i for i in range(tensors) if args[i] is not None and in_dims[i] is not None]
    moved = list(args)
    for i in mapped:
        moved[i] = args[i].movedim(in_dims[i], 0)
    if all(i in fold for i in mapped):
        for i in fold:
            if i not in mapped:
                moved[i] = args[i].expand(info.batch_size, *args[i].shape)
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
        parts = tuple(torch.stack(part) for part in zip(*samples, strict=True))
    return (parts, (0,) * len(parts)) if isinstance(output, tuple) else (parts[0], 0)


def _unfold(part: Tensor, batch: int) -> Tensor:
    if part.dim() == 1:  # not asked for
        return part.expand(batch, -1)
    return part.unflatten(0, (batch, -1))
