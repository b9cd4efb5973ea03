"""Arrays that are mapped from files: what is too large to be held."""

import math
import mmap
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsyn.errors import RunError


class MappedTensor:
    """A float32 tensor of zeros in a file without a name, which goes when nobody uses it.

    Its pages come and go as the system sees fit; `release` lets go of those that this process has
    touched, so that its resident memory does not grow with what it has visited.

    Raises
    ------
    RunError
        If no file can be made in ``folder``.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.truncate(4 * math.prod(shape))
                self._map = mmap.mmap(file.fileno(), 0)
        except OSError as error:
            raise RunError(f"no file can be made in {str(folder)!r}: {error.strerror}") from None
        self.tensor: Tensor = torch.frombuffer(self._map, dtype=torch.float32).view(shape)

    def release(self) -> None:
        """Let go of the pages in memory; what was changed stays, in the system's cache."""
        self._map.madvise(mmap.MADV_DONTNEED)


def release(array: np.ndarray) -> None:
    """Let go of the pages of an array that is mapped from a file; of any other, do nothing."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
