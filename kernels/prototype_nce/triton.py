"""Contrast against prototypes on the GPU: the loss and, in the same pass, its gradients.

S = s X Pᵀ,  L = mean_i [lse_k S_ik − S_{i, target_i}] over the rows that have a target
G_ik = softmax_k(S_i)_k − [k = target_i],  w = 1 / rows that have a target
dX = s w G P,  dP = s w Gᵀ X,  ds = w Σ G_ik ⟨X_i, P_k⟩

The softmax needs a row of S only. Up to 256 prototypes the row fits into one tile: a program reads
its rows of X once and writes the loss and dX, and dP of its rows where few programs share a client.
Otherwise G is written for a chunk of rows, and library products turn it into gradients.
"""

# Kernels are typed by Triton.
# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.triton import (
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
)

_FEW = 8  # programs a client whose parts of dP are stored and added; fewest in a chunk of rows


def loss_and_gradients(
    x: Tensor,  # [C, B, D] float32, float16 or bfloat16
    prototypes: Tensor,  # [C, K, D] of the same dtype
    target: Tensor,  # [C, B] int64, negative for rows without one
    scale: Tensor,  # [C] float32
    valid: Tensor | None,  # [C, K] bool: prototypes that exist
    want_x: bool,
    want_prototypes: bool,
    *,
    tile: Tile | None = None,
    precision: str = PRECISION,
    workspace: int = WORKSPACE,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """The loss [C] and its gradients to ``x``, ``prototypes`` (where wanted) and ``scale`` [C].

    ``tile.n`` is the number of prototypes in a tile. G is held for as many rows at a time as have
    ``workspace`` elements of it. float32 operands meet G in torch's matrix products, which follow
    ``torch.backends.cuda.matmul``.
    """
    clients, size, depth = x.shape
    k = prototypes.shape[1]
    to_x = torch.empty_like(x) if want_x else None
    to_prototypes = torch.zeros_like(prototypes) if want_prototypes else None
    if x.numel() == 0:
        return torch.zeros_like(scale), to_x, to_prototypes, torch.zeros_like(scale)
    tile = tile or _tile(x, k)
    one_tile = k <= tile.n
    blocks = triton.cdiv(size, tile.m)
    in_parts = one_tile and blocks <= _FEW
    keep = (want_prototypes and not in_parts) or (want_x and not one_tile)

    count = (target >= 0).sum(-1)
    sums = x.new_empty(2, clients, blocks, dtype=torch.float32)  # of the loss, of scale's gradient
    parts = sums.new_empty(clients, blocks, k, depth) if want_prototypes and in_parts else None
    by_x = sums.new_empty(clients, size, depth) if want_x and not one_tile else None
    by_prototypes = sums.new_empty(clients, k, depth) if want_prototypes and not in_parts else None
    pitch = triton.cdiv(k, 8) * 8  # rows of whole 16 bytes
    at_a_time = max(workspace // (clients * pitch * tile.m), _FEW) if keep else blocks
    g = x.new_empty(clients, min(at_a_time * tile.m, size), pitch) if keep else None

    wide_x, wide_prototypes = aligned(x), aligned(prototypes)
    with torch.cuda.device_of(x):
        for block in range(0, blocks, at_a_time):
            rows = slice(block * tile.m, min((block + at_a_time) * tile.m, size))
            some = None if g is None else g[:, : rows.stop - rows.start]
            _contrast[triton.cdiv(rows.stop - rows.start, tile.m), clients](
                by_tiles(wide_x, tile.m, tile.d),
                by_tiles(wide_prototypes, tile.n, tile.d),
                None if some is None else by_tiles(some, tile.m, tile.n),
                *(target, scale, as_bytes(valid), count, sums),
                *(to_x if one_tile else None, parts),
                *(block, blocks, size, k, depth),
                BLOCK_M=tile.m,
                BLOCK_K=tile.n,
                BLOCK_D=tile.d,
                PRECISION=precision,
                ONE_TILE=one_tile,
                **tile.options,
            )
            if some is None:
                continue
            if by_x is not None:
                product(some[..., :k], prototypes, by_x[:, rows])
            if by_prototypes is not None:
                product(some[..., :k].mT, x[:, rows], by_prototypes, add=block > 0)
    factor = (scale / count.clamp(min=1))[:, None, None]
    if by_x is not None:
        torch.mul(by_x, factor, out=to_x)
    if by_prototypes is not None:
        torch.mul(by_prototypes, factor, out=to_prototypes)
    if parts is not None:
        to_prototypes = parts.sum(1).to(prototypes.dtype)
    loss, to_scale = sums.sum(-1)
    return loss, to_x, to_prototypes, to_scale


def _tile(x: Tensor, k: int) -> Tile:
    """The largest tiles whose softmax and gradients fit into registers."""
    clients, size, _ = x.shape
    width = x.element_size()
    step = 128 // width  # one swizzled row of shared memory
    if k > 512 // width:
        return Tile(256 // width, 128, step, warps=8, stages=3)
    columns = max(16, triton.next_power_of_2(k))
    many = clients * triton.cdiv(size, 128) >= 132  # programs for each multiprocessor
    rows = 128 if many and width == 2 and columns <= 128 else 64
    return Tile(rows, columns, step, warps=8 if rows * columns * width > 1 << 14 else 4, stages=3)


@triton.jit
def _scan(dots, label, factor, k, k_valid, top, total, weighted, positive):
    """Take a tile of ⟨X_i, P_k⟩ into a running softmax, its weighted sum, and the target's."""
    s = tl.where(k_valid[None, :], dots * factor, -1e30)
    new_top = tl.maximum(top, tl.max(s, 1))
    shrink = tl.exp2(top - new_top)
    e = tl.exp2(s - new_top[:, None])
    total = total * shrink + tl.sum(e, 1)
    weighted = weighted * shrink + tl.sum(e * dots, 1)
    positive += tl.sum(tl.where(label[:, None] == k[None, :], dots, 0.0), 1)
    return new_top, total, weighted, positive


@triton.jit
def _softmax_gradients(dots, label, factor, k, k_valid, lse):
    """A tile of G; rows without a target are zero."""
    s = tl.where(k_valid[None, :], dots * factor, -1e30)
    p = tl.exp2(s - lse[:, None])
    p = tl.where(label[:, None] == k[None, :], p - 1.0, p)
    return tl.where((label >= 0)[:, None], p, 0.0)


@triton.jit(do_not_specialize=["first_block", "blocks", "B", "K"])
def _contrast(
    x,  # [C, B, D] by tiles
    prototypes,  # [C, K, D] by tiles
    g,  # [C, rows, K] by tiles: G of this launch, if wanted
    target,
    scale,
    valid,
    count,
    sums,  # [2, C, blocks]
    to_x,
    parts,  # [C, blocks, K, D] of dP, if wanted
    first_block,
    blocks,
    B,
    K,
    depth,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    ONE_TILE: tl.constexpr,
):
    block = first_block + tl.program_id(0)
    client = tl.program_id(1)
    wide_client = client.to(tl.int64)
    row = block * BLOCK_M
    i = row + tl.arange(0, BLOCK_M)
    label = tl.load(target + wide_client * B + i, i < B, other=-1).to(tl.int32)
    weight = 1.0 / tl.maximum(tl.load(count + client), 1).to(tl.float32)
    factor = tl.load(scale + client) * LOG2_E

    top = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M], tl.float32)
    positive = tl.zeros([BLOCK_M], tl.float32)
    if ONE_TILE:
        k = tl.arange(0, BLOCK_K)
        k_valid = takes_part(valid, client, k, K)
        dots = similarities(
            *(x, prototypes, client, client, row, 0, depth),
            *(BLOCK_M, BLOCK_K, BLOCK_D, PRECISION),
        )
        top, total, weighted, positive = _scan(
            dots, label, factor, k, k_valid, top, total, weighted, positive
        )
    else:
        for column in range(0, K, BLOCK_K):
            k = column + tl.arange(0, BLOCK_K)
            k_valid = takes_part(valid, client, k, K)
            dots = similarities(
                *(x, prototypes, client, client, row, column, depth),
                *(BLOCK_M, BLOCK_K, BLOCK_D, PRECISION),
            )
            top, total, weighted, positive = _scan(
                dots, label, factor, k, k_valid, top, total, weighted, positive
            )
    lse = top + tl.log2(total)
    loss = tl.where(label >= 0, (lse - positive * factor) * LN_2, 0.0)
    slope = tl.where(label >= 0, weighted / total - positive, 0.0)
    sums += wide_client * blocks + block
    tl.store(sums, tl.sum(loss) * weight)
    tl.store(sums + tl.num_programs(1).to(tl.int64) * blocks, tl.sum(slope) * weight)

    if ONE_TILE:
        p = _softmax_gradients(dots, label, factor, k, k_valid, lse).to(x.dtype)
        if g is not None:
            g.store([client, row - first_block * BLOCK_M, 0], p.reshape(1, BLOCK_M, BLOCK_K))
        weight *= tl.load(scale + client)
        if to_x is not None:
            for d in tl.range(0, depth, BLOCK_D):
                b = prototypes.load([client, 0, d]).reshape(BLOCK_K, BLOCK_D)
                u = tl.dot(p, b, input_precision=PRECISION) * weight
                j = d + tl.arange(0, BLOCK_D)
                at = to_x + (wide_client * B + i)[:, None] * depth + j[None, :]
                inside = (i < B)[:, None] & (j < depth)[None, :]
                tl.store(at, u.to(to_x.dtype.element_ty), inside)
        if parts is not None:
            for d in tl.range(0, depth, BLOCK_D):
                a = x.load([client, row, d]).reshape(BLOCK_M, BLOCK_D)
                u = tl.dot(p.T, a, input_precision=PRECISION) * weight
                j = d + tl.arange(0, BLOCK_D)
                at = parts + ((wide_client * blocks + block) * K + k)[:, None] * depth + j[None, :]
                tl.store(at, u, (k < K)[:, None] & (j < depth)[None, :])
    elif g is not None:
        for column in range(0, K, BLOCK_K):
            k = column + tl.arange(0, BLOCK_K)
            k_valid = takes_part(valid, client, k, K)
            dots = similarities(
                *(x, prototypes, client, client, row, column, depth),
                *(BLOCK_M, BLOCK_K, BLOCK_D, PRECISION),
            )
            p = _softmax_gradients(dots, label, factor, k, k_valid, lse).to(x.dtype)
            held_row = row - first_block * BLOCK_M
            g.store([client, held_row, column], p.reshape(1, BLOCK_M, BLOCK_K))
