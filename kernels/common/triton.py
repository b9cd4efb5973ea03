"""What the Triton kernels share: operands as tiles, similarities, base-2 arithmetic.

Launch functions take torch tensors, allocate with torch and never synchronise, so CUDA graphs can
capture them. They also run on CPU tensors where ``TRITON_INTERPRET=1``: the tests' way in.
"""

# Kernels are typed by Triton.
# mypy: allow-untyped-defs, allow-incomplete-defs

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# Contracting a * b + c, said aloud in every launch because Triton's default changes.
FUSION = {"enable_fp_fusion": True}

# Products of fp32 operands: three tf32 products each, as exact as fp32 ones at half their time.
PRECISION = "tf32x3"

# Elements of an intermediate matrix held at a time: 32 MB in bf16, about half of Hopper's L2, which
# leaves room for what else the products with it read.
WORKSPACE = 1 << 24


class Tile(NamedTuple):
    """How a kernel cuts its problem, and the threads and pipeline stages of a program."""

    m: int  # rows
    n: int  # columns
    d: int  # depth of one step
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, Any]:
        """The compiler's options of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages, **FUSION}


def aligned(x: Tensor) -> Tensor:
    """``x [C, R, D]`` as the copy engine can read it: rows of whole 16 bytes, zeros at their end.

    Zero columns change no inner product.
    """
    missing = -x.shape[-1] % (16 // x.element_size())
    if missing:
        return torch.nn.functional.pad(x, (0, missing))
    return x if x.data_ptr() % 16 == 0 else x.clone()


def by_tiles(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Access to ``x [C, R, D]`` by tiles ``[1, rows, columns]``; beyond its edges, reads give 0."""
    # The strides of axes of length one are anything; the copy engine's are multiples of 16 bytes.
    row = x.stride(1) if x.shape[1] > 1 else x.shape[2]
    client = x.stride(0) if x.shape[0] > 1 else x.shape[1] * row
    return TensorDescriptor(x, list(x.shape), [client, row, 1], [1, rows, columns])


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A mask of booleans as the bytes they are."""
    return None if mask is None else mask.view(torch.uint8)


def product(a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> None:
    """``out = a b``, or ``out += a b``: [C, P, R] times [C, R, Q] in fp32."""
    if a.is_cuda and a.dtype != torch.float32:
        if add:
            torch.baddbmm(out, a, b, out_dtype=torch.float32, out=out)
        else:
            torch.bmm(a, b, out_dtype=torch.float32, out=out)
    else:
        torch.baddbmm(out, a.float(), b.float(), beta=int(add), out=out)


@triton.jit
def log2(x):
    """log₂ of positive normal numbers by the special-function unit: absolute error 2^-22 near 1.

    One instruction, where `tl.log2` is a polynomial of about thirty.
    """
    if _INTERPRETED:
        return tl.log2(x)
    return tl.inline_asm_elementwise(
        "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def tile_of(program, row_tiles, column_tiles):
    """Row and column of a program's tile.

    Tiles are taken in bands of eight rows, so that those computed at a time share operands in L2.
    """
    in_band = 8 * column_tiles
    first = program // in_band * 8
    height = tl.minimum(row_tiles - first, 8)
    return first + program % in_band % height, program % in_band // height


@triton.jit
def takes_part(valid, client, index, count):
    """Whether rows exist and, where there is a mask, are valid."""
    exists = index < count
    if valid is not None:
        exists &= tl.load(valid + tl.cast(client, tl.int64) * count + index, exists, other=0) != 0
    return exists


@triton.jit
def similarities(
    x,  # [C, M, D] by tiles [1, BLOCK_M, BLOCK_D]
    y,  # [C, N, D] by tiles [1, BLOCK_N, BLOCK_D]
    client_x,
    client_y,
    row,
    column,
    depth,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The tile of x yᵀ whose first element is (row, column), in fp32."""
    product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for d in tl.range(0, depth, BLOCK_D):
        a = x.load([client_x, row, d]).reshape(BLOCK_M, BLOCK_D)
        b = y.load([client_y, column, d]).reshape(BLOCK_N, BLOCK_D)
        product = tl.dot(a, b.T, product, input_precision=PRECISION)
    return product
