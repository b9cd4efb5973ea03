"""The CUDA kernels' library, called from plain C."""

import ctypes
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedsyn.ops.backends import native


def as_c(value):
    """A tensor's address, a number in the C type that the kernels take, or a null pointer."""
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return None if value is None else ctypes.c_int64(value)


class Library:
    """``libfedsyn_cuda``: its functions by the name after ``fedsyn_``."""

    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))
        self.c.fedsyn_cuda_error_string.restype = ctypes.c_char_p
        self.c.fedsyn_prototype_nce_workspace.restype = ctypes.c_int64

    def code(self, function, *arguments):
        """Launch on the current stream and return the error code."""
        stream = torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else None
        arguments = [*map(as_c, arguments), ctypes.c_void_p(stream)]
        return getattr(self.c, f"fedsyn_{function}")(*arguments)

    def launch(self, function, *arguments):
        code = self.code(function, *arguments)
        assert code == 0, self.c.fedsyn_cuda_error_string(code)

    def prototype_nce_workspace(self, *sizes):
        """Bytes."""
        return self.c.fedsyn_prototype_nce_workspace(*map(ctypes.c_int64, sizes))


@pytest.fixture(scope="session")
def library():
    if native() is None or not native().cuda_compiled():
        pytest.skip("the CUDA kernels were not built")
    return Library(next(Path(native().__file__).parent.glob("libfedsyn_cuda.*")))
