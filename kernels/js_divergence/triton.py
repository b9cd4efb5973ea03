"""Jensen–Shannon divergences that never store [N, K], on the GPU; formula.h has the mathematics.

`assign` and `filter` take the softmax of similarities to prototypes of both modalities and their
divergence in one pass. `nearest` finds each row's nearest of C distributions through a certified
bound: with h² = 1 − Σ √(p q), the Hellinger affinity is a matrix product, and

    ln 2 · h² ≤ JSD ≤ h²

holds term by term: with d = (p − q) / (p + q), the ratio of the terms' derivatives to d is
u / sinh u at u = artanh d, which falls, so the ratio of the terms falls from 1 at d = 0 to ln 2 at
|d| = 1. Only those few of the C divergences are computed that the bound leaves open.
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
    log2,
    similarities,
    takes_part,
)

_TINY = tl.constexpr(2.0**-126)  # the smallest normal number
_SERIES_BELOW = tl.constexpr(1.0 / 16.0)
_CEILING = tl.constexpr(0.69314712)  # ln 2 rounded down: a bound that really holds

_PROGRAMS = 264  # two for each multiprocessor of a Hopper GPU
_MERGED = 256  # rows whose candidates one program compares


def assign(
    x: Tensor,  # [N, D] float32, float16 or bfloat16
    y: Tensor,  # [N, D] of the same dtype
    px: Tensor,  # [K, D]
    py: Tensor,  # [K, D]
    scale: Tensor,  # [] or [1] float32
    valid: Tensor | None,  # [K] bool
    *,
    tile: Tile | None = None,
    precision: str = PRECISION,
) -> tuple[Tensor, Tensor]:  # [N] float32, [N] int64
    """Divergence between both modalities' softmax over the prototypes, and the likeliest prototype.

    The latter maximises ``scale · (x pxᵀ + y pyᵀ)``; the first of equals.
    """
    valid = None if valid is None else valid[None]
    divergence, _, assignment = filter(
        *(x, y, px[None], py[None], scale, valid), tile=tile, precision=precision
    )
    return divergence, assignment


def filter(  # its operator is js_filter
    x: Tensor,  # [N, D] float32, float16 or bfloat16
    y: Tensor,  # [N, D] of the same dtype
    px: Tensor,  # [C, K, D]
    py: Tensor,  # [C, K, D]
    scale: Tensor,  # [] or [1] float32
    valid: Tensor | None,  # [C, K] bool
    *,
    tile: Tile | None = None,
    precision: str = PRECISION,
) -> tuple[Tensor, Tensor, Tensor]:  # [N] float32, [N] int64, [N] int64
    """The least of the clients' divergences, whose it is, and `assign`'s prototype there.

    The client is the lowest of equals.
    """
    n, depth = x.shape
    clients, k, _ = px.shape
    tile = tile or _tile(x, k)
    blocks = triton.cdiv(n, tile.m)
    splits = min(clients, triton.cdiv(_PROGRAMS, max(blocks, 1)))
    share = triton.cdiv(clients, splits)
    splits = triton.cdiv(clients, share)
    divergence = x.new_empty(n, dtype=torch.float32)
    client = x.new_empty(n, dtype=torch.int64)
    assignment = torch.empty_like(client)
    if n == 0:
        return divergence, client, assignment
    single = splits == 1
    outputs = divergence, client, assignment
    parts = outputs if single else tuple(out.new_empty(splits, n) for out in outputs)
    operands = aligned(x[None]), aligned(y[None]), aligned(px), aligned(py)
    heights = tile.m, tile.m, tile.n, tile.n
    with torch.cuda.device_of(x):
        _least_divergence[blocks, splits](
            *(by_tiles(o, height, tile.d) for o, height in zip(operands, heights, strict=True)),
            *(scale, as_bytes(valid), *parts, n, clients, k, depth, share),
            BLOCK_M=tile.m,
            BLOCK_K=tile.n,
            BLOCK_D=tile.d,
            PRECISION=precision,
            ONE_TILE=k <= tile.n,
            **tile.options,
        )
        if not single:
            _merge[(triton.cdiv(n, _MERGED),)](*parts, *outputs, n, splits, BLOCK=_MERGED, **FUSION)
    return outputs


def nearest(
    p: Tensor,  # [N, K] float32 distributions
    q: Tensor,  # [C, K] float32 distributions
    *,
    tile: Tile | None = None,
    precision: str = PRECISION,
    workspace: int = WORKSPACE // 2,
) -> tuple[Tensor, Tensor]:  # [N] float32, [N] int64
    """The least divergence of each row of ``p`` to a row of ``q``, and which: the lowest of equals.

    Equal to what computing all N · C divergences would give. The bounds are held for as many rows
    at a time as have ``workspace`` of them.
    """
    n, k = p.shape
    clients = q.shape[0]
    tile = tile or Tile(64, 64, 32, warps=4, stages=3)
    divergence = p.new_empty(n)
    client = p.new_empty(n, dtype=torch.int64)
    chunk = max(workspace // clients // tile.m, 1) * tile.m
    bound = p.new_empty(min(chunk, n), clients)
    # Rounding of the product's k terms, which tensor cores cut off, and rows' sums not quite 1.
    slack = 2**-16 + k * 2**-23
    wide_p, wide_q = aligned(p[None]), aligned(q[None])
    with torch.cuda.device_of(p):
        for first in range(0, n, chunk):
            rows = min(chunk, n - first)
            grid = triton.cdiv(rows, tile.m), triton.cdiv(clients, tile.n)
            _bounds[grid](
                by_tiles(wide_p[:, first : first + rows], tile.m, tile.d),
                by_tiles(wide_q, tile.n, tile.d),
                *(bound, slack, rows, clients, k),
                BLOCK_M=tile.m,
                BLOCK_N=tile.n,
                BLOCK_D=tile.d,
                PRECISION=precision,
                **tile.options,
            )
            _nearest_row[(rows,)](
                *(p, q, bound, divergence, client, first, clients, k),
                BLOCK_C=min(triton.next_power_of_2(clients), 1024),
                BLOCK_K=max(32, min(triton.next_power_of_2(k), 512)),
                num_warps=1,
                **FUSION,
            )
    return divergence, client


def _tile(x: Tensor, k: int) -> Tile:
    """Two similarity tiles and their softmaxes in registers."""
    step = 128 // x.element_size()  # one swizzled row of shared memory
    columns = max(16, min(triton.next_power_of_2(k), 128))
    return Tile(64, columns, step, warps=8 if columns == 128 else 4, stages=3)


@triton.jit
def _terms(p, q):
    """Terms p ln(2p/m) + q ln(2q/m), by the series where the logarithms would cancel."""
    m = tl.maximum(p + q, _TINY)
    half_scale = 1.0 / m
    d = (p - q) * half_scale
    d2 = d * d
    phi = 1.0 / 28 + d2 * (1.0 / 45)
    phi = 1.0 / 15 + d2 * phi
    phi = 1.0 / 6 + d2 * phi
    phi = d2 * (1.0 + d2 * phi)
    scale = 2.0 * half_scale
    logs = p * log2(tl.maximum(p * scale, _TINY)) + q * log2(tl.maximum(q * scale, _TINY))
    return tl.where(d2 < _SERIES_BELOW, 0.5 * m * phi, logs * LN_2)


@triton.jit
def _clamp(total):
    """Half the terms' sum, in [0, ln 2]; comparisons in this direction let NaN through."""
    value = 0.5 * total
    value = tl.where(value < 0.0, 0.0, value)
    return tl.where(value > _CEILING, _CEILING, value)


@triton.jit
def _scan(s, top, total):
    """Take a tile into a running softmax."""
    new_top = tl.maximum(top, tl.max(s, 1))
    return new_top, total * tl.exp2(top - new_top) + tl.sum(tl.exp2(s - new_top[:, None]), 1)


@triton.jit
def _both_logits(
    x,
    y,
    px,
    py,
    factor,
    valid,
    client,
    row,
    column,
    K,
    depth,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Logits of both modalities in units of ln 2; −1e30 for prototypes that do not exist."""
    exists = takes_part(valid, client, column + tl.arange(0, BLOCK_K), K)[None, :]
    a = similarities(x, px, 0, client, row, column, depth, BLOCK_M, BLOCK_K, BLOCK_D, PRECISION)
    b = similarities(y, py, 0, client, row, column, depth, BLOCK_M, BLOCK_K, BLOCK_D, PRECISION)
    return tl.where(exists, a * factor, -1e30), tl.where(exists, b * factor, -1e30)


@triton.jit(do_not_specialize=["N", "C", "K", "depth", "share"])
def _least_divergence(
    x,  # [1, N, D] by tiles
    y,  # [1, N, D] by tiles
    px,  # [C, K, D] by tiles
    py,  # [C, K, D] by tiles
    scale,
    valid,
    divergence,  # [splits, N]
    least_client,  # [splits, N]
    assignment,  # [splits, N]
    N,
    C,
    K,
    depth,
    share,  # clients of a split
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    ONE_TILE: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_M
    split = tl.program_id(1)
    factor = tl.load(scale) * LOG2_E
    least = tl.full([BLOCK_M], float("inf"), tl.float32)
    where_least = tl.zeros([BLOCK_M], tl.int64)
    chosen = tl.zeros([BLOCK_M], tl.int64)
    for client in range(split * share, tl.minimum((split + 1) * share, C)):
        top_a = tl.full([BLOCK_M], -1e30, tl.float32)
        top_b = tl.full([BLOCK_M], -1e30, tl.float32)
        total_a = tl.zeros([BLOCK_M], tl.float32)
        total_b = tl.zeros([BLOCK_M], tl.float32)
        if ONE_TILE:
            a, b = _both_logits(
                *(x, y, px, py, factor, valid, client, row, 0, K, depth),
                *(BLOCK_M, BLOCK_K, BLOCK_D, PRECISION),
            )
            likeliest = tl.argmax(a + b, 1).to(tl.int64)
            top_a, total_a = _scan(a, top_a, total_a)
            top_b, total_b = _scan(b, top_b, total_b)
            p = tl.exp2(a - top_a[:, None]) / total_a[:, None]
            q = tl.exp2(b - top_b[:, None]) / total_b[:, None]
            sums = tl.sum(_terms(p, q), 1)
        else:
            highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
            likeliest = tl.zeros([BLOCK_M], tl.int64)
            for column in range(0, K, BLOCK_K):
                a, b = _both_logits(
                    *(x, y, px, py, factor, valid, client, row, column, K, depth),
                    *(BLOCK_M, BLOCK_K, BLOCK_D, PRECISION),
                )
                high, at = tl.max(a + b, 1, return_indices=True)
                likeliest = tl.where(high > highest, column + at.to(tl.int64), likeliest)
                highest = tl.maximum(highest, high)
                top_a, total_a = _scan(a, top_a, total_a)
                top_b, total_b = _scan(b, top_b, total_b)
            sums = tl.zeros([BLOCK_M], tl.float32)
            for column in range(0, K, BLOCK_K):
                a, b = _both_logits(
                    *(x, y, px, py, factor, valid, client, row, column, K, depth),
                    *(BLOCK_M, BLOCK_K, BLOCK_D, PRECISION),
                )
                p = tl.exp2(a - top_a[:, None]) / total_a[:, None]
                q = tl.exp2(b - top_b[:, None]) / total_b[:, None]
                sums += tl.sum(_terms(p, q), 1)
        value = _clamp(sums)
        better = (value < least) | (value != value)
        least = tl.where(better, value, least)
        where_least = tl.where(better, client, where_least)
        chosen = tl.where(better, likeliest, chosen)
    i = row + tl.arange(0, BLOCK_M)
    at = split.to(tl.int64) * N + i
    tl.store(divergence + at, least, i < N)
    tl.store(least_client + at, where_least, i < N)
    tl.store(assignment + at, chosen, i < N)


@triton.jit(do_not_specialize=["N", "splits"])
def _merge(
    divergences,  # [splits, N]
    clients,  # [splits, N]
    assignments,  # [splits, N]
    divergence,
    client,
    assignment,
    N,
    splits,
    BLOCK: tl.constexpr,
):
    """The least of the splits' divergences; the first of equals has the lowest client."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    least = tl.load(divergences + i, i < N)
    best = tl.zeros([BLOCK], tl.int64)
    for split in range(1, splits):
        value = tl.load(divergences + tl.cast(split, tl.int64) * N + i, i < N)
        better = (value < least) | (value != value)
        least = tl.where(better, value, least)
        best = tl.where(better, split, best)
    tl.store(divergence + i, least, i < N)
    tl.store(client + i, tl.load(clients + best * N + i, i < N), i < N)
    tl.store(assignment + i, tl.load(assignments + best * N + i, i < N), i < N)


@triton.jit(do_not_specialize=["slack", "rows", "clients", "K"])
def _bounds(
    p,  # [1, rows, K] by tiles
    q,  # [1, C, K] by tiles
    bound,  # [rows, C]
    slack,
    rows,
    clients,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Lower bounds ln 2 · h² of the divergences."""
    row = tl.program_id(0) * BLOCK_M
    column = tl.program_id(1) * BLOCK_N
    affinity = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in tl.range(0, K, BLOCK_D):
        a = tl.sqrt(p.load([0, row, k]).reshape(BLOCK_M, BLOCK_D))
        b = tl.sqrt(q.load([0, column, k]).reshape(BLOCK_N, BLOCK_D))
        affinity = tl.dot(a, b.T, affinity, input_precision=PRECISION)
    i = row + tl.arange(0, BLOCK_M)
    j = column + tl.arange(0, BLOCK_N)
    at = bound + i.to(tl.int64)[:, None] * clients + j[None, :]
    inside = (i < rows)[:, None] & (j < clients)[None, :]
    tl.store(at, (1.0 - slack - affinity) * LN_2, inside)


@triton.jit
def _divergence(p, q, K, BLOCK_K: tl.constexpr):
    """Of two rows in memory."""
    total = tl.zeros([BLOCK_K], tl.float32)
    for column in range(0, K, BLOCK_K):
        k = column + tl.arange(0, BLOCK_K)
        total += _terms(tl.load(p + k, k < K, other=0.0), tl.load(q + k, k < K, other=0.0))
    return _clamp(tl.sum(total))


@triton.jit(do_not_specialize=["first_row", "C", "K"])
def _nearest_row(
    p,
    q,
    bound,  # [rows of this launch, C]
    divergence,
    client,
    first_row,
    C,
    K,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Of a row: the client of the least bound, then all whose bound is within the least so far."""
    n = tl.program_id(0).to(tl.int64)
    bound += n * C
    n += first_row
    p += n * K
    c = tl.arange(0, BLOCK_C)

    least_bound = float("inf")
    start = 0
    for block in range(0, C, BLOCK_C):
        bounds = tl.load(bound + block + c, block + c < C, other=float("inf"))
        low, at = tl.min(bounds, 0, return_indices=True)
        start = tl.where(low < least_bound, block + at, start)
        least_bound = tl.minimum(least_bound, low)
    least = _divergence(p, q + tl.cast(start, tl.int64) * K, K, BLOCK_K)
    best = start

    for block in range(0, C, BLOCK_C):
        index = block + c
        bounds = tl.load(bound + index, index < C, other=float("inf"))
        candidate = tl.min(tl.where((bounds <= least) & (index != start), index, C))
        while candidate < C:
            value = _divergence(p, q + candidate.to(tl.int64) * K, K, BLOCK_K)
            better = (value < least) | ((value == least) & (candidate < best))
            least = tl.where(better, value, least)
            best = tl.where(better, candidate, best)
            open_after = (bounds <= least) & (index > candidate) & (index != start)
            candidate = tl.min(tl.where(open_after, index, C))
    tl.store(divergence + n, least)
    tl.store(client + n, best)
