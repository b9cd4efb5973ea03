"""Symmetric InfoNCE on the GPU: log-sum-exps of rows and columns, and gradients.

S = s X Yᵀ,  r_i = lse_j S_ij,  c_j = lse_i S_ij,  L = mean_i [(r_i + c_i) / 2 − S_ii]
w = ∂/∂L / (2 · valid rows),  G_ij = e^{S_ij − r_i} + e^{S_ij − c_j} − 2 [j = i + offset]
dX = s w G Y,  dY = s w Gᵀ X,  ds = w Σ_i ⟨X_i, (G Y)_i⟩

The similarities are never stored. Forward, a tile of them gives partial log-sum-exps of its rows
and its columns, and a second kernel merges the partials in fixed order. Backward, tiles give
G for a chunk of rows, which two library products turn into gradients while it is in L2.
"""

# Kernels are typed by Triton.
# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.triton import (
    FUSION,
    LN_2,
    LOG2_E,
    PRECISION,
    WORKSPACE,
    Tile,
    aligned,
    as_bytes,
    by_tiles,
    product,
    similarities,
    takes_part,
    tile_of,
)

# Each chunk of rows of G adds to all of dY, which costs N · D · 8 bytes: not fewer rows than these.
_LEAST_ROWS = 1024

_MERGED = 256  # rows whose partials one program merges
_SUMMED = 2048  # products that one program adds


def lse(
    x: Tensor,  # [C, M, D] float32, float16 or bfloat16
    y: Tensor,  # [C, N, D] of the same dtype
    scale: Tensor,  # [C] float32
    valid_x: Tensor | None,  # [C, M] bool
    valid_y: Tensor | None,  # [C, N] bool
    *,
    tile: Tile | None = None,
    precision: str = PRECISION,
) -> tuple[Tensor, Tensor]:  # [C, M], [C, N] float32
    """Log-sum-exps of the rows and of the columns of ``scale · x yᵀ`` over the valid pairs.

    They are −∞ for invalid rows and columns, and where no pair is valid. ``precision`` is how
    products of float32 operands are taken (``"tf32"``, ``"tf32x3"`` or ``"ieee"``).
    """
    clients, m, _ = x.shape
    n = y.shape[1]
    rows = x.new_empty(clients, m, dtype=torch.float32)
    columns = rows.new_empty(clients, n)
    if rows.numel() == 0 or columns.numel() == 0:
        return rows.fill_(-torch.inf), columns.fill_(-torch.inf)
    tile = tile or _tile(x, n)
    row_tiles, column_tiles = triton.cdiv(m, tile.m), triton.cdiv(n, tile.n)
    single = row_tiles == 1 and column_tiles == 1
    row_parts = rows if single else rows.new_empty(clients, column_tiles, m)
    column_parts = columns if single else columns.new_empty(clients, row_tiles, n)
    x, y = aligned(x), aligned(y)
    with torch.cuda.device_of(x):
        _lse_tile[(row_tiles * column_tiles, clients)](
            by_tiles(x, tile.m, tile.d),
            by_tiles(y, tile.n, tile.d),
            scale,
            as_bytes(valid_x),
            as_bytes(valid_y),
            row_parts,
            column_parts,
            *(m, n, x.shape[2]),
            BLOCK_M=tile.m,
            BLOCK_N=tile.n,
            BLOCK_D=tile.d,
            PRECISION=precision,
            UNIT=LN_2 if single else 1.0,
            **tile.options,
        )
        if not single:
            _merge[(triton.cdiv(m, _MERGED) + triton.cdiv(n, _MERGED), clients)](
                *(row_parts, column_parts, rows, columns, m, n, row_tiles, column_tiles),
                BLOCK=_MERGED,
                **FUSION,
            )
    return rows, columns


def gradients(
    grad: Tensor,  # [C] of the loss
    x: Tensor,  # [C, M, D] float32, float16 or bfloat16
    y: Tensor,  # [C, N, D] of the same dtype
    scale: Tensor,  # [C] float32
    valid_x: Tensor | None,  # [C, M] bool
    valid_y: Tensor | None,  # [C, N] bool
    rows: Tensor,  # [C, M] of `lse`
    columns: Tensor,  # [C, N] of `lse`
    offset: int,  # row i's partner is column i + offset
    *,
    tile: Tile | None = None,
    precision: str = PRECISION,
    workspace: int = WORKSPACE,
    least_rows: int = _LEAST_ROWS,
) -> tuple[Tensor, Tensor, Tensor]:  # [C, M, D], [C, N, D], [C] float32
    """Gradients of the loss to ``x``, ``y`` and ``scale``.

    G is held for as many clients or rows at a time as have ``workspace`` elements of it, and for
    ``least_rows`` rows at least. float32 operands meet G in torch's matrix products, which follow
    ``torch.backends.cuda.matmul``.
    """
    clients, m, depth = x.shape
    n = y.shape[1]
    if x.numel() == 0 or y.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(scale)
    tile = tile or _tile(x, n)
    group = min(max(workspace // (m * n), 1), clients)
    chunk = m if group > 1 else min(max(workspace // n // tile.m * tile.m, least_rows), m)
    chunks, column_tiles = triton.cdiv(m, chunk), triton.cdiv(n, tile.n)
    held = x.new_empty(group, chunk, triton.cdiv(n, 8) * 8)  # rows of whole 16 bytes
    by_x = x.new_empty(clients, m, depth, dtype=torch.float32)
    by_y = by_x.new_empty(clients, n, depth)
    wide_x, wide_y = aligned(x), aligned(y)
    mask_x, mask_y = as_bytes(valid_x), as_bytes(valid_y)
    with torch.cuda.device_of(x):
        for start in range(0, clients, group):
            some = slice(start, min(start + group, clients))
            for index in range(chunks):
                part = slice(index * chunk, min((index + 1) * chunk, m))
                g = held[: some.stop - some.start, : part.stop - part.start]
                # Its slices are contiguous: of whole clients, or of rows of one client.
                _logit_gradients[triton.cdiv(g.shape[1], tile.m) * column_tiles, g.shape[0]](
                    by_tiles(wide_x[some, part], tile.m, tile.d),
                    by_tiles(wide_y[some], tile.n, tile.d),
                    by_tiles(g, tile.m, tile.n // 2),
                    scale[some],
                    None if mask_x is None else mask_x[some, part],
                    None if mask_y is None else mask_y[some],
                    rows[some, part],
                    columns[some],
                    *(g.shape[1], n, wide_x.shape[2], part.start + offset),
                    BLOCK_M=tile.m,
                    BLOCK_N=tile.n,
                    BLOCK_D=tile.d,
                    PRECISION=precision,
                    **tile.options,
                )
                g = g[..., :n]
                product(g, y[some], by_x[some, part])
                product(g.mT, x[some, part], by_y[some], add=index > 0)
    count = m if valid_x is None else valid_x.sum(-1).clamp(min=1)
    weight = grad.float() / (2 * count)
    factor = (scale * weight)[:, None, None]
    to_x = torch.mul(by_x, factor, out=torch.empty_like(x))
    to_y = torch.mul(by_y, factor, out=torch.empty_like(y))
    return to_x, to_y, weight * _inner(x, by_x)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [C] of what [C, R, D] holds for each client."""
    elements = a[0].numel()
    blocks = triton.cdiv(elements, _SUMMED)
    parts = b.new_empty(a.shape[0], blocks)
    with torch.cuda.device_of(a):
        _inner_block[blocks, a.shape[0]](a, b, parts, elements, BLOCK=_SUMMED, **FUSION)
    return parts.sum(-1)


def _tile(x: Tensor, n: int) -> Tile:
    """Large tiles reuse operands; small ones keep all multiprocessors busy with small problems."""
    clients, m, depth = x.shape
    step = 128 // x.element_size()  # one swizzled row of shared memory
    if clients * triton.cdiv(m, 128) * triton.cdiv(n, 128) < 132:
        return Tile(64, 64, step, warps=4, stages=3)
    if x.element_size() == 4:
        return Tile(128, 128, step, warps=8, stages=3)
    # Two programs of 128 x 128 share a multiprocessor, so one's exponentials hide behind the
    # other's products; where the products take longer, reading operands less often is better.
    return Tile(128, 128, step, 4, 3) if depth < 512 else Tile(128, 256, step, 8, 3)


@triton.jit
def _logits(
    x,
    y,
    scale,
    i_valid,
    j_valid,
    client,
    row,
    column,
    depth,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of S in units of ln 2, −∞ where a pair takes no part."""
    s = similarities(x, y, client, client, row, column, depth, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION)
    s *= tl.load(scale + client) * LOG2_E
    return tl.where(i_valid[:, None] & j_valid[None, :], s, float("-inf"))


@triton.jit(do_not_specialize=["M", "N", "depth"])
def _lse_tile(
    x,  # [C, M, D] by tiles
    y,  # [C, N, D] by tiles
    scale,
    valid_x,
    valid_y,
    row_parts,  # [C, column tiles, M]
    column_parts,  # [C, row tiles, N]
    M,
    N,
    depth,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
):
    client = tl.program_id(1)
    row_tiles = tl.cdiv(M, BLOCK_M)
    column_tiles = tl.cdiv(N, BLOCK_N)
    row_tile, column_tile = tile_of(tl.program_id(0), row_tiles, column_tiles)
    row = row_tile * BLOCK_M
    column = column_tile * BLOCK_N

    i = row + tl.arange(0, BLOCK_M)
    j = column + tl.arange(0, BLOCK_N)
    i_valid = takes_part(valid_x, client, i, M)
    j_valid = takes_part(valid_y, client, j, N)
    # One exponential serves a pair's row and its column: both are taken against the tile's maximum.
    s = _logits(
        *(x, y, scale, i_valid, j_valid, client, row, column, depth),
        *(BLOCK_M, BLOCK_N, BLOCK_D, PRECISION),
    )
    top = tl.maximum(tl.max(s), -3e38)  # finite, if no pair takes part
    e = tl.exp2(s - top)
    row_sum = tl.sum(e, 1)
    column_sum = tl.sum(e, 0)
    least_row = tl.min(tl.where(i_valid, row_sum, 1.0))
    least_column = tl.min(tl.where(j_valid, column_sum, 1.0))
    any_pair = (tl.max(i_valid.to(tl.int32)) > 0) & (tl.max(j_valid.to(tl.int32)) > 0)
    client64 = client.to(tl.int64)
    row_parts += (client64 * column_tiles + column_tile) * M + i
    column_parts += (client64 * row_tiles + row_tile) * N + j
    if (tl.minimum(least_row, least_column) < 1e-27) & any_pair:
        # Terms below 2^-126 were lost, and some row or column has nothing much greater. The tile is
        # computed again (keeping s would take more registers than there are), and all rows and
        # columns are taken against their own maxima.
        s = _logits(
            *(x, y, scale, i_valid, j_valid, client, row, column, depth),
            *(BLOCK_M, BLOCK_N, BLOCK_D, PRECISION),
        )
        row_top = tl.maximum(tl.max(s, 1), -3e38)
        row_sum = tl.sum(tl.exp2(s - row_top[:, None]), 1)
        tl.store(row_parts, (row_top + tl.log2(row_sum)) * UNIT, i < M)
        column_top = tl.maximum(tl.max(s, 0), -3e38)
        column_sum = tl.sum(tl.exp2(s - column_top[None, :]), 0)
        tl.store(column_parts, (column_top + tl.log2(column_sum)) * UNIT, j < N)
    else:
        tl.store(row_parts, (top + tl.log2(row_sum)) * UNIT, i < M)
        tl.store(column_parts, (top + tl.log2(column_sum)) * UNIT, j < N)


@triton.jit(do_not_specialize=["M", "N", "row_tiles", "column_tiles"])
def _merge(
    row_parts,  # [C, column_tiles, M]
    column_parts,  # [C, row_tiles, N]
    rows,
    columns,
    M,
    N,
    row_tiles,
    column_tiles,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    client = tl.program_id(1).to(tl.int64)
    row_blocks = tl.cdiv(M, BLOCK)
    if block < row_blocks:
        _merge_block(row_parts, rows, client, block, M, column_tiles, BLOCK)
    else:
        _merge_block(column_parts, columns, client, block - row_blocks, N, row_tiles, BLOCK)


@triton.jit
def _merge_block(parts, merged, client, block, size, count, BLOCK: tl.constexpr):
    """The logarithm of Σ 2^part over the parts [C, count, size], in their order."""
    i = block * BLOCK + tl.arange(0, BLOCK)
    parts += client * count * size + i
    top = tl.full([BLOCK], -3e38, tl.float32)
    part = parts
    for _ in range(count):
        top = tl.maximum(top, tl.load(part, i < size, other=float("-inf")))
        part += size
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(count):
        total += tl.exp2(tl.load(parts, i < size, other=float("-inf")) - top)
        parts += size
    tl.store(merged + client * size + i, (top + tl.log2(total)) * LN_2, i < size)


@triton.jit(do_not_specialize=["M", "N", "depth", "offset"])
def _logit_gradients(
    x,  # [C, M, D] by tiles
    y,  # [C, N, D] by tiles
    g,  # [C, M, N] by halves of tiles
    scale,
    valid_x,
    valid_y,
    rows,
    columns,
    M,
    N,
    depth,
    offset,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    client = tl.program_id(1)
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N))
    row = row_tile * BLOCK_M
    column = column_tile * BLOCK_N
    s = similarities(
        *(x, y, client, client, row, column, depth),
        *(BLOCK_M, BLOCK_N, BLOCK_D, PRECISION),
    )
    # The rest is loaded only now and done by halves: the products leave few registers.
    i = row + tl.arange(0, BLOCK_M)
    r = _log_sums(rows, valid_x, client, i, M)
    paired = takes_part(valid_x, client, i, M) & takes_part(valid_y, client, i + offset, N)
    partner = tl.where(paired, i + offset, -1)
    s *= tl.load(scale + client) * LOG2_E
    left, right = s.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    _half_tile(
        *(g, left, r, partner, columns, valid_y, client, row, column, N),
        *(BLOCK_M, BLOCK_N // 2),
    )
    _half_tile(
        *(g, right, r, partner, columns, valid_y, client, row, column + BLOCK_N // 2, N),
        *(BLOCK_M, BLOCK_N // 2),
    )


@triton.jit
def _half_tile(
    g,
    s,
    r,
    partner,
    columns,
    valid_y,
    client,
    row,
    column,
    N,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    j = column + tl.arange(0, BLOCK_N)
    c = _log_sums(columns, valid_y, client, j, N)
    lowest = tl.minimum(tl.min(r), tl.min(c))
    highest = tl.maximum(
        tl.max(tl.where(r < float("inf"), r, lowest)), tl.max(tl.where(c < float("inf"), c, lowest))
    )
    middle = tl.where(lowest < float("inf"), 0.5 * (lowest + highest), 0.0)
    s = tl.where((r < float("inf"))[:, None] & (c < float("inf"))[None, :], s, float("-inf"))
    r = tl.minimum(r, highest)
    c = tl.minimum(c, highest)
    if highest - lowest < 100.0:
        # e^{S − r} + e^{S − c} with one exponential: what underflows is less than 2^-76 of 1.
        p = tl.exp2(s - middle) * (tl.exp2(middle - r)[:, None] + tl.exp2(middle - c)[None, :])
    else:
        p = tl.exp2(s - r[:, None]) + tl.exp2(s - c[None, :])
    p = tl.where(partner[:, None] == j[None, :], p - 2.0, p)
    g.store([client, row, column], p.to(g.dtype).reshape(1, BLOCK_M, BLOCK_N))


@triton.jit
def _log_sums(sums, valid, client, index, count):
    """Log-sum-exps in units of ln 2; +∞ for what takes no part, or has no valid pair."""
    part = takes_part(valid, client, index, count)
    z = tl.load(sums + client.to(tl.int64) * count + index, part, other=float("inf")) * LOG2_E
    return tl.where(z == float("-inf"), float("inf"), z)


@triton.jit
def _inner_block(a, b, parts, elements, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    client = tl.program_id(1).to(tl.int64)
    k = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    at = client * elements + k
    products = tl.load(a + at, k < elements, other=0.0).to(tl.float32)
    products *= tl.load(b + at, k < elements, other=0.0)
    tl.store(parts + client * tl.num_programs(0) + block, tl.sum(products))
