"""Training steps as CUDA graphs: recorded once, then replayed without Python and without launches.

A recorded step reads its inputs and changes tensors in place; it never asks the device for a value.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_recording: ContextVar[bool] = ContextVar("fedsyn_graphs", default=False)


@contextmanager
def recording(enabled: bool = True) -> Iterator[None]:
    """Let the steps on GPUs that are made in this context be recorded, or not."""
    token = _recording.set(enabled)
    try:
        yield
    finally:
        _recording.reset(token)


class Step:
    """A step that may be called many times with inputs of the same shapes.

    On a GPU, in a `recording` context, its first call runs as it is, which compiles kernels and
    fills caches; the second is recorded, and from then on the recording is replayed on copies of
    the inputs. Elsewhere every call runs as it is.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function, self._device = function, device
        self._records = _recording.get() and device.type == "cuda"
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the function gives; of a recording a copy."""
        self._calls += 1
        if not self._records:
            return self._function(*inputs)
        if self._calls == 1:
            return self._aside(inputs)
        if self._graph is None:
            self._inputs = [value.clone() for value in inputs]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):  # records, and computes nothing
                self._output = self._function(*self._inputs)
        else:
            for mine, value in zip(self._inputs, inputs, strict=True):
                mine.copy_(value)
        self._graph.replay()
        return self._output.clone()

    def _aside(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """One call on a stream of its own, as PyTorch asks for before a recording."""
        here = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            output = self._function(*inputs)
        here.wait_stream(stream)
        return output
