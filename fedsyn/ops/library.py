"""Registration of the operators with torch.library, and the way to their compiled kernels."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fedsyn.ops.backends import forced, inherit, native, thread_count

_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
}

_library = torch.library.Library("fedsyn", "FRAGMENT")


def register(
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    setup: Callable[[Any, Any, Any], None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define ``fedsyn::<schema>`` for CPU and CUDA tensors and return it.

    Parameters
    ----------
    schema : str
        Name, arguments and results, e.g. ``"f(Tensor x) -> Tensor"``.
    implementation : callable
        Takes real tensors; picks the backend itself (`fedsyn.ops.backends.choose`).
    fake : callable
        Gives the results' shapes and dtypes without computing them.
    setup, backward : callable, optional
        As in ``torch.library.register_autograd``, for operators without lists of tensors. The
        backend that the forward pass was forced to is forced in the backward pass as well.
    """
    name = schema.split("(")[0]
    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    for key in ("CPU", "CUDA"):
        _library.impl(name, implementation, key)
    torch.library.register_fake(f"fedsyn::{name}", fake, lib=_library)
    operator: Callable[..., Any] = getattr(torch.ops.fedsyn, name).default
    if setup is not None and backward is not None:
        register_autograd_kernel(name, _differentiable(operator, setup, backward))
    return operator


def _differentiable(
    operator: Callable[..., Any],
    setup: Callable[[Any, Any, Any], None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """The operator with gradients, out of autograd's way where none is asked for."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            # The backward pass of CUDA tensors runs in a thread of its own, with its own context.
            ctx.backend = forced()
            output = below_autograd(operator, *inputs)
            setup(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            with inherit(ctx.backend):
                return backward(ctx, *grads)

    def kernel(*inputs: Any) -> Any:
        if torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in inputs
        ):
            return Differentiable.apply(*inputs)
        return below_autograd(operator, *inputs)

    return kernel


def register_autograd_kernel(name: str, kernel: Callable[..., Any]) -> None:
    """Let ``kernel`` differentiate ``fedsyn::<name>``.

    It takes the operator's arguments, and calls it by `below_autograd`. (``torch.library``'s own
    ``register_autograd`` takes ten microseconds more a call, and for operators with lists of
    tensors a tenth of a millisecond.)
    """
    _library.impl(name, kernel, "Autograd")


def below_autograd(operator: Callable[..., Any], *arguments: Any) -> Any:
    """What the operator gives for real or fake tensors, out of autograd's sight."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


@functools.cache
def _kernel(operation: str, backend: str, dtype: torch.dtype) -> Callable[..., None]:
    kernel: Callable[..., None] = getattr(native(), f"{operation}_{backend}_{_NAMES[dtype]}")
    return kernel


def launch(
    operation: str,
    backend: str,
    like: Tensor,
    *arguments: Tensor | float | str | Sequence[int] | Sequence[float] | None,
) -> None:
    """Call ``_C.<operation>_<backend>_<dtype of like>`` with addresses and numbers.

    Tensors are passed as addresses (``None`` as 0): contiguous ones, or else with their strides.
    The last argument of every kernel is added here: the number of threads (``cpu``) or the current
    stream (``cuda``).
    """
    kernel = _kernel(operation, backend, like.dtype)
    values = [a.data_ptr() if isinstance(a, Tensor) else 0 if a is None else a for a in arguments]
    if backend == "cpu":
        kernel(*values, thread_count())
        return
    with torch.cuda.device(like.device):
        kernel(*values, torch.cuda.current_stream().cuda_stream)
