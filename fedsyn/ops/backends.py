"""Which implementations of the operators can run here, and which one is used.

``reference`` is pure PyTorch and runs everywhere; ``cpu`` and ``cuda`` are the compiled kernels of
``fedsyn._C``; ``triton`` kernels are compiled when first used. An operator takes the fastest that
it has for its tensors' device, unless ``FEDSYN_BACKEND=name`` or ``with backend("name")`` forces
one.
"""

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

import torch

BACKENDS = ("reference", "cpu", "triton", "cuda")
VARIABLE = "FEDSYN_BACKEND"

_logger = logging.getLogger(__name__)
_forced: ContextVar[str | None] = ContextVar("fedsyn_backend", default=None)
_threads: ContextVar[int] = ContextVar("fedsyn_threads", default=0)  # 0: as torch


@functools.cache
def native() -> ModuleType | None:
    """The compiled module, or ``None`` (said once, through logging) where it is absent."""
    try:
        from fedsyn import _C
    except ImportError as error:
        _logger.warning("the compiled kernels are absent, PyTorch takes their place: %s", error)
        return None
    return _C


@functools.cache
def backends() -> tuple[str, ...]:
    """Which of ``reference``, ``cpu``, ``triton`` and ``cuda`` can run here.

    Returns
    -------
    tuple of str
        In the order above; ``reference`` is always the first.
    """
    module = native()
    gpu = torch.version.cuda is not None and torch.cuda.is_available()
    able = {
        "reference": True,
        "cpu": module is not None,
        "triton": gpu and importlib.util.find_spec("triton") is not None,
        "cuda": gpu and module is not None and module.cuda_compiled(),
    }
    return tuple(name for name in BACKENDS if able[name])


def instruction_set() -> str | None:
    """What the compiled CPU kernels use here, e.g. ``avx512``; ``None`` without them."""
    module = native()
    return None if module is None else module.cpu_isa()


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one backend for the operators that this context calls, and for their backward passes.

    Takes precedence over ``FEDSYN_BACKEND``; other threads and asynchronous tasks are not affected.

    Parameters
    ----------
    name : str
        One of `backends()`.

    Raises
    ------
    ValueError
        If the name is unknown or that backend cannot run here.
    """
    token = _forced.set(_check(name, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


@contextlib.contextmanager
def inherit(name: str | None) -> Iterator[None]:
    """Force what `forced` gave in another thread: autograd runs backward passes in its own."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> str | None:
    """The backend that the context or the environment forces, else ``None``.

    Raises
    ------
    ValueError
        If ``FEDSYN_BACKEND`` names an unknown backend or one that cannot run here.
    """
    name = _forced.get()
    if name is None and (name := os.environ.get(VARIABLE)):
        _check(name, VARIABLE)
    return name or None


def choose(operator: str, implemented: tuple[str, ...], device: str) -> str:
    """The backend that an operator uses for tensors of a device.

    Parameters
    ----------
    operator : str
        Its name, for the message.
    implemented : tuple of str
        What the operator has for that device, best first.
    device : str
        Type of the tensors' device, for the message.

    Raises
    ------
    ValueError
        If the forced backend is not one of ``implemented``.
    """
    name = forced()
    if name is None:
        return next(candidate for candidate in implemented if candidate in backends())
    if name not in implemented:
        raise ValueError(
            f"{operator}: backend {name!r} is forced but {device} tensors have only "
            + " and ".join(implemented)
        )
    return name


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let the compiled CPU kernels that this context calls use ``count`` threads of their own.

    Without it they use as many as torch does. They share their work out without OpenMP, so they
    may be given more threads than torch.

    Raises
    ------
    ValueError
        If ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"threads: expected at least 1, got {count}")
    token = _threads.set(count)
    try:
        yield
    finally:
        _threads.reset(token)


def thread_count() -> int:
    """How many threads a compiled CPU kernel uses here."""
    return _threads.get() or torch.get_num_threads()


def _check(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}, expected one of {BACKENDS}")
    if name not in backends():
        raise ValueError(f"{source}: {name!r} cannot run here, available are {backends()}")
    return name
