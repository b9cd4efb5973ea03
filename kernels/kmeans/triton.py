"""The two steps of Lloyd's iterations on the GPU, batched over clients.

`assign` takes the argmin of |c_k|² − 2 ⟨x_i, c_k⟩ tile by tile and then the distance to the one
centroid found, as a sum of squares: no cancellation. `update` sorts rows by cluster and adds them
in two passes, pieces of a cluster first and then its pieces: no atomic additions, so that sums are
the same bits in every run, and a client's the same whoever it is stacked with.
"""

# Kernels are typed by Triton.
# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.triton import FUSION, PRECISION, Tile, aligned, by_tiles, similarities

_PIECE = 256  # rows of a cluster that one program adds


def assign(
    x: Tensor,  # [C, N, D] float32, float16 or bfloat16
    centroids: Tensor,  # [C, K, D] of the same dtype
    rows: Tensor | None,  # [C] integer: each client's rows; None for N
    *,
    tile: Tile | None = None,
    precision: str = PRECISION,
) -> tuple[Tensor, Tensor]:  # [C, N] int64, [C, N] float32
    """Each row's nearest centroid, the lowest of equals, and its squared distance.

    Rows beyond a client's own get −1 and 0.
    """
    clients, n, depth = x.shape
    k = centroids.shape[1]
    assignment = x.new_empty(clients, n, dtype=torch.int64)
    distance = x.new_empty(clients, n, dtype=torch.float32)
    if assignment.numel() == 0:
        return assignment, distance
    tile = tile or _tile(x, k)
    squares = centroids.float().square().sum(-1)
    wide_x, wide_centroids = aligned(x), aligned(centroids)
    with torch.cuda.device_of(x):
        _assign_rows[triton.cdiv(n, tile.m), clients](
            by_tiles(wide_x, tile.m, tile.d),
            by_tiles(wide_centroids, tile.n, tile.d),
            *(centroids, squares, rows, assignment, distance, n, k, depth),
            BLOCK_M=tile.m,
            BLOCK_K=tile.n,
            BLOCK_D=tile.d,
            PRECISION=precision,
            **tile.options,
        )
    return assignment, distance


def update(
    x: Tensor,  # [C, N, D] float32, float16 or bfloat16
    assignment: Tensor,  # [C, N] integer, negative for rows that take no part
    k: int,
    weight: Tensor | None,  # [C, N] float32; None for 1
    rows: Tensor | None,  # [C] integer: each client's rows; None for N
) -> tuple[Tensor, Tensor]:  # [C, K, D], [C, K] float32
    """Sum of each cluster's weighted rows, and of their weights; rows are added in their order."""
    clients, n, depth = x.shape
    sums = x.new_zeros(clients, k, depth, dtype=torch.float32)
    mass = sums.new_zeros(clients, k)
    if assignment.numel() == 0:
        return sums, mass
    key = assignment.to(torch.int32)
    if rows is not None:
        key = key.masked_fill(torch.arange(n, device=x.device) >= rows[:, None], -1)
    key, order = torch.sort(key, stable=True)
    clusters = torch.arange(k + 1, dtype=torch.int32, device=x.device)
    start = torch.searchsorted(key, clusters.expand(clients, -1).contiguous())  # [C, K + 1]
    stop_piece = (start.diff() + (_PIECE - 1)).div(_PIECE, rounding_mode="floor").cumsum(-1)
    pieces = n // _PIECE + min(k, n)  # no client can have more
    parts = sums.new_empty(clients, pieces, depth)
    mass_parts = sums.new_empty(clients, pieces)
    block_d = min(triton.next_power_of_2(depth), 128)
    columns = triton.cdiv(depth, block_d)
    with torch.cuda.device_of(x):
        _add_rows[pieces, columns, clients](
            *(x, order, start, stop_piece, weight, parts, mass_parts, n, k, depth),
            PIECE=_PIECE,
            CLUSTERS=triton.next_power_of_2(k),
            BLOCK_R=32,
            BLOCK_D=block_d,
            **FUSION,
        )
        _add_pieces[k, columns, clients](
            *(parts, mass_parts, stop_piece, sums, mass, pieces, depth),
            BLOCK_P=16,
            BLOCK_D=block_d,
            **FUSION,
        )
    return sums, mass


def _tile(x: Tensor, k: int) -> Tile:
    step = 128 // x.element_size()  # one swizzled row of shared memory
    columns = max(16, min(triton.next_power_of_2(k), 128))
    return Tile(128, columns, step, warps=8, stages=3)


@triton.jit(do_not_specialize=["N", "K"])
def _assign_rows(
    x,  # [C, N, D] by tiles
    tiled_centroids,  # [C, K, D] by tiles
    centroids,
    squares,  # [C, K]
    rows,
    assignment,
    distance,
    N,
    K,
    depth,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_M
    client = tl.program_id(1)
    i = row + tl.arange(0, BLOCK_M)
    own = i < N
    if rows is not None:
        own &= i < tl.load(rows + client)
    client64 = client.to(tl.int64)
    any_own = tl.max(own.to(tl.int32))  # padding costs nothing

    least = tl.full([BLOCK_M], float("inf"), tl.float32)
    nearest = tl.zeros([BLOCK_M], tl.int32)
    for column in range(0, K * any_own, BLOCK_K):
        k = column + tl.arange(0, BLOCK_K)
        square = tl.load(squares + client64 * K + k, k < K, other=float("inf"))
        dots = similarities(
            *(x, tiled_centroids, client, client, row, column, depth),
            *(BLOCK_M, BLOCK_K, BLOCK_D, PRECISION),
        )
        low, at = tl.min(square[None, :] - 2.0 * dots, 1, return_indices=True)
        nearest = tl.where(low < least, column + at, nearest)
        least = tl.minimum(least, low)

    total = tl.zeros([BLOCK_M], tl.float32)
    start = centroids + (client64 * K + nearest) * depth
    for d in range(0, depth * any_own, BLOCK_D):
        j = d + tl.arange(0, BLOCK_D)
        inside = own[:, None] & (j < depth)[None, :]
        c = tl.load(start[:, None] + j[None, :], inside, other=0.0).to(tl.float32)
        a = x.load([client, row, d]).reshape(BLOCK_M, BLOCK_D).to(tl.float32)
        total += tl.sum((a - c) * (a - c), 1)
    at = client64 * N + i
    tl.store(assignment + at, tl.where(own, nearest, -1), i < N)
    tl.store(distance + at, tl.where(own, total, 0.0), i < N)


@triton.jit(do_not_specialize=["N", "K"])
def _add_rows(
    x,
    order,  # [C, N] rows by cluster
    start,  # [C, K + 1] where in it a cluster starts
    stop_piece,  # [C, K] pieces of this cluster and those before it
    weight,
    parts,  # [C, pieces, D]
    mass_parts,  # [C, pieces]
    N,
    K,
    depth,
    PIECE: tl.constexpr,
    CLUSTERS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    piece = tl.program_id(0)
    client = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, CLUSTERS)
    stops = tl.load(stop_piece + client * K + k, k < K, other=1 << 62)
    cluster = tl.sum((stops <= piece).to(tl.int32))
    if cluster < K:
        before = tl.max(tl.where(stops <= piece, stops, 0))
        first = tl.load(start + client * (K + 1) + cluster) + (piece - before) * PIECE
        stop = tl.minimum(first + PIECE, tl.load(start + client * (K + 1) + cluster + 1))
        j = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        total = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
        mass = tl.zeros([BLOCK_R], tl.float32)
        for r in range(0, PIECE, BLOCK_R):
            at = first + r + tl.arange(0, BLOCK_R)
            row = client * N + tl.load(order + client * N + at, at < stop, other=0)
            w = (at < stop).to(tl.float32)
            if weight is not None:
                w *= tl.load(weight + row, at < stop, other=0.0)
            inside = (at < stop)[:, None] & (j < depth)[None, :]
            a = tl.load(x + row[:, None] * depth + j[None, :], inside, other=0.0)
            total += a.to(tl.float32) * w[:, None]
            mass += w
        out = client * tl.num_programs(0) + piece
        tl.store(parts + out * depth + j, tl.sum(total, 0), j < depth)
        if tl.program_id(1) == 0:
            tl.store(mass_parts + out, tl.sum(mass))


@triton.jit(do_not_specialize=["pieces"])
def _add_pieces(
    parts,  # [C, pieces, D]
    mass_parts,  # [C, pieces]
    stop_piece,  # [C, K]
    sums,
    mass,
    pieces,
    depth,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    cluster = tl.program_id(0)
    client = tl.program_id(2).to(tl.int64)
    out = client * tl.num_programs(0) + cluster
    first = tl.load(stop_piece + out - 1, cluster > 0, other=0)
    stop = tl.load(stop_piece + out)
    j = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_P, BLOCK_D], tl.float32)
    total_mass = tl.zeros([BLOCK_P], tl.float32)
    for piece in range(first, stop, BLOCK_P):
        at = piece + tl.arange(0, BLOCK_P)
        row = client * pieces + at
        inside = (at < stop)[:, None] & (j < depth)[None, :]
        total += tl.load(parts + row[:, None] * depth + j[None, :], inside, other=0.0)
        total_mass += tl.load(mass_parts + row, at < stop, other=0.0)
    tl.store(sums + out * depth + j, tl.sum(total, 0), j < depth)
    if tl.program_id(1) == 0:
        tl.store(mass + out, tl.sum(total_mass))
