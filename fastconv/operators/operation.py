"""An operation of fastconv: its registration with torch, and the ways of its calls.

A call takes the first of these ways that holds for it. Each names what it remembers:

1. A prepared call (`PreparedCall.run`), for tensors of forms that were checked before. The public
   function finds it in its memo table (`kernels.MemoTable`). It holds prepared kernels, such as
   `kernels.conv2d.PreparedFprop`, each with a plan (`kernels.plan.Plan`) and the plan with the
   prepared call of `_C`, which checks addresses alone.
2. A plain eager call (`Operation.__call__`), such as a backward formula makes. It looks at its
   tensors and runs the kernels, whose plans an lru_cache keeps for each geometry and setting.
3. torch's own operators (`fallback`) where `torch_internals.needs_torch` says so: forward AD, ONNX.
4. torch.func's grad, vmap, ...: `GeneralFunction` over the registered operator.
5. All else, such as compile, export, FakeTensors and tracing: the registered operator,
   torch.ops.fastconv.<name>.

Where a gradient is wanted, 1 and 2 run the kernel inside of `ShortFunction`. There are two
Functions because one with `setup_context` costs 34 us a call (measured with torch 2.13), and
torch.func takes no other. All ways share one `save` and one `backward`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import Function

from .. import torch_internals
from ..geometry import ConvSpec, PoolSpec
from ..torch_internals import PLAIN_TYPES, any_without_memory, has_no_memory, profiling, quiet
from .sharding import tell_dtensor
from .vmap import vmap

# What comes of a tensor without memory: torch has no address for it, or `_C` refuses address 0. A
# slice has another address, so tensors with an offset are asked before.
_REFUSED = (RuntimeError, ValueError)

_library = torch.library.Library("fastconv", "DEF")


class Operation:
    """An operation, registered as `fastconv::<name>` and called as a function.

    The arguments named conv and pool are a ConvSpec, and a PoolSpec or None. The registered
    operator takes lists of ints there, and makes specs of them before it calls the functions below.
    """

    def __init__(
        self,
        schema: str,
        *,
        tensors: int,
        fake: Callable[..., Any],
        save: Callable[[Any, Sequence[Any], Any], None],
        backward: Callable[..., Sequence[Tensor | None]],
        fallback: Callable[..., Any],
        forward: Callable[..., Any] | None = None,
        prepare_kernel: Callable[..., Callable[..., tuple[Tensor, Tensor | None]]] | None = None,
        has_code: bool = False,
        fold: Sequence[int] = (),
    ) -> None:
        """
        Args:
            schema: torch.library's, with the tensor arguments first.
            tensors: how many arguments are tensors (or None).
            fake: the outputs' sizes, strides and dtypes, for FakeTensors.
            save: `save(ctx, args, output)` keeps what the backward pass needs.
            backward: `backward(ctx, *grads)`, the gradients of the tensor arguments, made of
                differentiable operations only.
            fallback: the same operation made of torch's own operators.
            forward: computes the outputs from plain tensors; None for one that is not wanted.
            prepare_kernel: in place of `forward`, for operations whose result is y alone.
                `prepare_kernel(*args)` gives a function of the tensors, for all of the same forms
                as these. Its results are y and what is kept for the backward pass, or None.
            has_code: the operator gives y and a code, which is kept for the backward pass. Whether
                it is wanted is its last argument, `bool save`, also of `fake` and `prepare_kernel`.
                It is filled in here: callers and `fallback` know neither it nor the code.
            fold: the tensor arguments whose first dimension is N. Where vmap maps over some of
                these only, its dimension joins N; elsewhere samples are computed one by one.
        """
        self.name = schema[: schema.index("(")]
        self.qualified = f"fastconv::{self.name}"
        self.tensors, self.has_code, self.fold = tensors, has_code, fold
        self.save, self.fallback, self.prepare_kernel = save, fallback, prepare_kernel
        self.returns_y = prepare_kernel is not None
        self.forward = forward or self._prepare_and_run
        self._fake, self._backward = fake, backward
        # The argument `save` for a call with a backward pass, and without one.
        self.saving: tuple[bool, ...] = (True,) if has_code else ()
        self.not_saving: tuple[bool, ...] = (False,) if has_code else ()

        _library.define(schema)
        _library.impl(self.name, self._kernel, "CPU")
        _library.impl(self.name, self._kernel, "CUDA")
        torch.library.register_fake(self.qualified, self._checked_fake, lib=_library)
        self.op = getattr(torch.ops.fastconv, self.name).default
        names = [argument.name for argument in self.op._schema.arguments]
        self._conv = names.index("conv") if "conv" in names else None
        self._pool = names.index("pool") if "pool" in names else None
        self._others = len(names) - tensors - len(self.saving)
        torch.library.register_autograd(
            self.qualified,
            self._registered_backward,
            setup_context=self._registered_setup_context,
            lib=_library,
        )
        torch.library.register_vmap(self.qualified, self._registered_vmap, lib=_library)

        title = "".join(part.capitalize() for part in self.name.split("_"))  # seen as grad_fn
        short: Any = type(title, (ShortFunction,), {"operation": self})
        general: Any = type(title, (GeneralFunction,), {"operation": self})
        # Function.apply itself does for torch.func what `__call__` does already, for 1 us more.
        self.apply_short = super(Function, short).apply  # type: ignore[misc]
        self._apply_general = general.apply
        self.__name__, self.__doc__ = self.name, f"fastconv::{schema}"

    # The ways of a call.

    def __call__(self, *args: Any) -> Any:
        if not quiet():
            return self.call_registered(*args)
        wanted, place = False, None
        for tensor in args[: self.tensors]:
            if tensor is not None:
                if (
                    type(tensor) not in PLAIN_TYPES
                    or not (tensor.is_cpu or tensor.is_cuda)
                    or tensor.is_neg()
                    or (tensor.storage_offset() and has_no_memory(tensor))
                ):
                    return self.call_registered(*args)
                if place is None:
                    place = tensor.get_device()
                elif place != tensor.get_device():
                    self._expect_one_device(args)
                wanted = wanted or tensor.requires_grad
        try:
            if profiling():
                with torch.profiler.record_function(self.qualified):  # as the dispatcher does
                    return self._run(wanted, args)
            # `_run`, inlined by hand, because it runs in every backward formula.
            if wanted and is_grad_enabled():
                return self.apply_short(*args, None)
            if self.has_code or self.returns_y:
                return self._run(False, args)
            return self.forward(*args)
        except _REFUSED:
            # A tensor may have no memory, which only torch's dispatcher can deal with. Asked only
            # now, because asking takes time.
            if any_without_memory(args[: self.tensors]):
                return self.call_registered(*args)
            raise

    def _run(self, wanted: bool, args: Sequence[Any]) -> Any:
        if wanted and is_grad_enabled():
            return self.apply_short(*args, None)
        output = self.forward(*args, *self.not_saving)
        return output[0] if self.returns_y else output

    def prepare(self, *args: Any) -> Callable[..., Tensor]:
        """The prepared call of plain tensors of these forms: a function of the tensors alone."""
        return PreparedCall(self, args).run

    def call_registered(self, *args: Any) -> Any:
        """A call that is not plain and eager."""
        if torch_internals.needs_torch():
            return self.fallback(*args)
        tell_dtensor()
        if torch_internals.functorch_active():
            output = self._apply_general(*args)
        else:
            # A traced graph may be differentiated later, and torch traces it twice to compare.
            wanted = torch_internals.tracing() or (
                is_grad_enabled()
                and any(t is not None and t.requires_grad for t in args[: self.tensors])
            )
            output = self.op(*args, *(self.saving if wanted else self.not_saving))
        return output[0] if self.has_code else output

    def with_code(self, *args: Any) -> Any:
        """The outputs with the code, by the registered operator."""
        if torch_internals.functorch_active():
            return self._apply_general(*args)
        return self.op(*args, *self.saving)

    # What they run.

    def _prepare_and_run(self, *args: Any) -> tuple[Tensor, Tensor | None]:
        assert self.prepare_kernel is not None
        return self.prepare_kernel(*args)(*args[: self.tensors])

    def gradients(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of all arguments but `save`."""
        if grads[0] is None and all(grad is None for grad in grads):
            return (None,) * (self.tensors + self._others)
        return (*self._backward(ctx, *grads), *(None,) * self._others)

    def _expect_one_device(self, args: Sequence[Any]) -> None:
        device = args[0].device
        for tensor in args[1 : self.tensors]:
            if tensor is not None and tensor.device != device:
                raise RuntimeError(
                    f"{self.qualified}: all tensors must be on one device, got {device} and "
                    f"{tensor.device}"
                )

    # The registered operator.

    def with_specs(self, args: Sequence[Any]) -> Sequence[Any]:
        """An operator's arguments, with specs for lists of ints. No pool may be an empty list."""
        changed = list(args)
        if self._conv is not None:
            changed[self._conv] = _spec(ConvSpec, "conv", args[self._conv])
        if self._pool is not None and self._pool < len(args):
            pool = args[self._pool]
            changed[self._pool] = _spec(PoolSpec, "pool", pool) if pool else None
        return changed

    def _kernel(self, *args: Any) -> Any:
        self._expect_one_device(args)
        if any_without_memory(args[: self.tensors]):
            raise RuntimeError(f"{self.qualified}: the memory of a tensor was freed")
        output = self.forward(*self.with_specs(args))
        if self.returns_y and not self.has_code:
            return output[0]
        if not isinstance(output, tuple):
            return output
        # An operator returns tensors; what was not asked for is empty.
        return tuple(args[0].new_empty(0) if part is None else part for part in output)

    def _checked_fake(self, *args: Any) -> Any:
        self._expect_one_device(args)
        return self._fake(*self.with_specs(args))

    def _registered_setup_context(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        ctx.kept = not self.has_code or inputs[-1]
        self.keep(ctx, inputs[:-1] if self.has_code else inputs, output)

    def _registered_backward(self, ctx: Any, *grads: Tensor | None) -> Any:
        if not ctx.kept:
            raise RuntimeError(
                f"{self.qualified}: this graph was made without gradients, so nothing was kept for "
                "a backward pass; make it again with inputs or parameters that require grad"
            )
        grads = grads[:1] if self.has_code else grads
        return (*self.gradients(ctx, *grads), *(None,) * len(self.saving))

    def _registered_vmap(self, info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
        return vmap(self.op, self.tensors, self.fold, info, in_dims, args)

    def keep(self, ctx: Any, args: Sequence[Any], output: Any) -> None:
        """Keeps what the backward pass needs of a call of the registered operator."""
        ctx.set_materialize_grads(False)
        if self.has_code:
            ctx.mark_non_differentiable(output[1])
        self.save(ctx, self.with_specs(args), output)


def _spec(kind: Callable[..., Any], name: str, values: Sequence[int]) -> Any:
    """A spec of an operator's list of ints."""
    count = len(kind._fields)  # type: ignore[attr-defined]
    if len(values) != count:
        raise ValueError(f"{name} must have {count} values, got {len(values)}")
    return kind(*values)


class PreparedCall:
    """A call whose arguments have been checked, to be made again for other tensors.

    They have to be plain and of the same forms as the first call's; gradients may be off or on.
    """

    __slots__ = ("_apply_short", "_kernel", "_operation", "_rest", "_saving_kernel", "_wanted")

    def __init__(self, operation: Operation, args: Sequence[Any]) -> None:
        assert operation.prepare_kernel is not None
        self._operation, self._rest = operation, args[operation.tensors :]
        self._kernel = operation.prepare_kernel(*args, *operation.not_saving)
        self._saving_kernel = operation.prepare_kernel(*args, *operation.saving)
        self._wanted = any(
            tensor is not None and tensor.requires_grad for tensor in args[: operation.tensors]
        )
        self._apply_short = operation.apply_short

    def run(self, *tensors: Any) -> Any:
        """Makes the call."""
        for tensor in tensors:
            if tensor is not None and tensor.storage_offset() and has_no_memory(tensor):
                return self._operation.call_registered(*tensors, *self._rest)
        try:
            if self._wanted and is_grad_enabled():
                return self._apply_short(*tensors, *self._rest, self._saving_kernel)
            return self._kernel(*tensors)[0]
        except _REFUSED:
            if any_without_memory(tensors):
                return self._operation.call_registered(*tensors, *self._rest)
            raise


class ShortFunction(Function):
    """The autograd Function of plain eager calls; each operation has a subclass.

    Its last argument is a prepared kernel, or None.
    """

    operation: ClassVar[Operation]

    @classmethod
    def forward(cls, ctx: Any, *given: Any) -> Any:  # type: ignore[override]
        operation, args, kernel = cls.operation, given[:-1], given[-1]
        if kernel is None:
            output = operation.forward(*args, *operation.saving)
        else:
            output = kernel(*args[: operation.tensors])
        ctx.set_materialize_grads(False)
        operation.save(ctx, args, output)
        return output[0] if operation.returns_y else output

    @classmethod
    def backward(cls, ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        return (*cls.operation.gradients(ctx, *grads), None)


class GeneralFunction(Function):
    """The autograd Function for torch.func's transforms; each operation has a subclass."""

    operation: ClassVar[Operation]

    @classmethod
    def forward(cls, *args: Any) -> Any:  # type: ignore[override]
        return cls.operation.op(*args, *cls.operation.saving)

    @classmethod
    def setup_context(cls, ctx: Any, args: Any, output: Any) -> None:  # type: ignore[override]
        cls.operation.keep(ctx, args, output)

    @classmethod
    def backward(cls, ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        return cls.operation.gradients(ctx, *(grads[:1] if cls.operation.has_code else grads))

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *args: Any) -> Any:  # type: ignore[override]
        operation = cls.operation
        return vmap(operation.with_code, operation.tensors, operation.fold, info, in_dims, args)
