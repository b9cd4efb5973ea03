"""Exact rankings of a gallery by queries: the best items, the rank of one, average precision.

Queries and gallery are rows of floats, compared by inner product, or of codes that `pack_bits` has
packed, compared by their Hamming distance. A query's ranking is that of falling similarity, ties
in the order of the gallery; similarities that are not finite are lowest. No operator needs memory
of the size of queries times items, and none has a gradient.
"""

import torch
from torch import Tensor

from fedsyn.ops.backends import choose
from fedsyn.ops.chunks import chunks
from fedsyn.ops.library import launch, register

WORD = 64  # bits of a packed word

# Best first. The compiled kernels have float32 and codes.
_IMPLEMENTED = {
    ("cpu", torch.float32): ("cpu", "reference"),
    ("cpu", torch.int64): ("cpu", "reference"),
}
_DTYPES = (torch.float32, torch.float64, torch.int64)


def pack_bits(
    bits: Tensor,  # [N, L] bool
) -> Tensor:  # [N, W] long
    """Bits in words of 64, the first lowest; the last word is filled up with zeros.

    Parameters
    ----------
    bits : Tensor [N, L] bool
        Signs of hash codes, or labels of each row.

    Returns
    -------
    Tensor [N, W] long
        W = L / 64, rounded up.

    Raises
    ------
    TypeError
        If ``bits`` is not a boolean tensor.
    ValueError
        If it has not two axes, or L is zero.
    """
    if not isinstance(bits, Tensor) or bits.dtype != torch.bool:
        raise TypeError(f"pack_bits: expected a tensor of bool, got {_kind(bits)}")
    if bits.ndim != 2 or bits.shape[1] == 0:
        raise ValueError(f"pack_bits: expected bits [N, L], L not zero, got {tuple(bits.shape)}")
    rows, length = bits.shape
    words = -(-length // WORD)
    padded = torch.nn.functional.pad(bits, (0, words * WORD - length))
    places = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=bits.device)
    octets = (padded.view(rows, words * 8, 8) * places).sum(-1, dtype=torch.uint8)
    return octets.view(torch.int64)


def top_k(
    query: Tensor,  # [Q, D]
    gallery: Tensor,  # [G, D]
    k: int,
) -> tuple[Tensor, Tensor]:  # [Q, k], [Q, k]
    """The ``k`` items that rank first.

    Parameters
    ----------
    query, gallery : Tensor [Q, D], [G, D]
        Rows of float32 or float64, compared by inner product; or codes [Q, W], [G, W] of
        `pack_bits`. On a CPU or an NVIDIA GPU.
    k : int
        At most G.

    Returns
    -------
    score : Tensor [Q, k]
        Their similarities, falling: inner products (−∞ where they are not finite), or minus the
        Hamming distances as float32.
    index : Tensor [Q, k] long
        Their rows of the gallery; ties in rising order.

    Raises
    ------
    TypeError
        If the operands are not tensors of one of these dtypes.
    ValueError
        If shapes or devices do not fit, the gallery is empty, or ``k`` is not in [1, G].
    """
    _check("top_k", query, gallery)
    _check_k("top_k", k, gallery)
    found: tuple[Tensor, Tensor] = _top_k(query.detach(), gallery.detach(), k)
    return found


def partner_rank(
    query: Tensor,  # [Q, D]
    gallery: Tensor,  # [G, D]
    partner: Tensor,  # [Q] long
    tied_behind: bool = False,
) -> Tensor:  # [Q]
    """The rank, from 1, of one given item of each query.

    Parameters
    ----------
    query, gallery : Tensor [Q, D], [G, D]
        As of `top_k`.
    partner : Tensor [Q] long
        The item of each query: a row of the gallery.
    tied_behind : bool
        Count all items that tie with the partner before it, rather than those that come first in
        the gallery.

    Returns
    -------
    Tensor [Q] long

    Raises
    ------
    TypeError
        As `top_k`; also if ``partner`` is not a tensor of long.
    ValueError
        If shapes or devices do not fit, the gallery is empty, or a partner is not in it.
    """
    _check("partner_rank", query, gallery)
    _check_partner(query, partner)
    rank: Tensor = _partner_rank(query.detach(), gallery.detach(), partner, tied_behind)
    return rank


def average_precision(
    query: Tensor,  # [Q, D]
    gallery: Tensor,  # [G, D]
    query_label: Tensor,  # [Q] long or [Q, L] bool
    gallery_label: Tensor,  # [G] long or [G, L] bool
    top: int = 50,
) -> Tensor:  # [Q, 3]
    """Average precision of whole rankings, and of their first ranks.

    ``AP = sum over relevant ranks r of (relevant items up to r) / r``, divided by their number.

    Parameters
    ----------
    query, gallery : Tensor [Q, D], [G, D]
        As of `top_k`.
    query_label, gallery_label : Tensor
        Classes [Q], [G] of long: relevant are items of the query's class; negative numbers are
        none. Or sets of labels [Q, L], [G, L] of bool: relevant are items that share one.
    top : int
        How many the first ranks are.

    Returns
    -------
    Tensor [Q, 3] double
        Of all ranks; of the first ranks, divided by the number of relevant items among them; and
        the same divided by as many as could be among them. 0 for a query without relevant items.

    Raises
    ------
    TypeError
        As `top_k`; also if the labels are not tensors of one dtype, long or bool.
    ValueError
        If shapes or devices do not fit, the gallery is empty, or ``top`` is not positive.

    Notes
    -----
    The compiled kernel does not sort. Scores of a query are counted into buckets of falling order,
    and only in those with relevant items is a relevant item compared with the others: its rank is
    the number of items in the buckets before, and of those before it in its own.
    """
    _check("average_precision", query, gallery)
    _check_labels(query, gallery, query_label, gallery_label, top)
    precision: Tensor = _average_precision(
        query.detach(), gallery.detach(), query_label, gallery_label, top
    )
    return precision


# ---- In PyTorch, chunk by chunk -------------------------------------------------------------


def scores(query: Tensor, gallery: Tensor) -> Tensor:
    """Inner products [Q, G]; what is not finite is lowest, and adding zero unites -0.0 with 0.0."""
    lowest = -torch.inf
    score = query @ gallery.T
    return score.nan_to_num_(nan=lowest, posinf=lowest, neginf=lowest).add_(0.0)


def rows_of(operand: Tensor) -> Tensor:
    """Rows whose inner products order as the similarity does: codes become +1 and -1."""
    if operand.dtype != torch.int64:
        return operand
    places = torch.arange(8, dtype=torch.uint8, device=operand.device)
    bits = operand.contiguous().view(torch.uint8)[:, :, None] >> places & 1
    return bits.flatten(1).float().mul_(2).sub_(1)


def shares_label(one: Tensor, other: Tensor) -> Tensor:
    """Whether rows share a label: [..] of classes, or [.., L] of sets, whose axes broadcast."""
    if one.dtype == torch.bool:
        return (one & other).any(-1)
    return (one == other) & (one >= 0)


def precision_of_hits(
    hit: Tensor,  # [Q, G] float64, 1 where the item at that rank is relevant
) -> tuple[Tensor, Tensor]:  # [Q, G], [Q, G]
    """Of each rank: the sum of AP's terms so far, and the number of relevant items so far."""
    found = hit.cumsum(1)
    rank = torch.arange(1, hit.shape[1] + 1, device=hit.device)
    return (found / rank).mul_(hit).cumsum(1), found


def top_k_reference(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`top_k` by sorting whole rows."""
    score, index = found = _top_k_fake(query, gallery, k)
    codes, bits = query.dtype == torch.int64, WORD * query.shape[1]
    query, gallery = rows_of(query), rows_of(gallery)
    for rows in chunks(len(query), len(gallery), query.device.type):
        ranked = scores(query[rows], gallery).sort(dim=1, descending=True, stable=True)
        score[rows], index[rows] = ranked.values[:, :k], ranked.indices[:, :k]
    if codes:
        score.sub_(bits).div_(2)  # bits - 2 distances were their products
    return found


def partner_rank_reference(
    query: Tensor, gallery: Tensor, partner: Tensor, tied_behind: bool
) -> Tensor:
    """`partner_rank` by counting."""
    rank = torch.empty_like(partner)
    item = torch.arange(len(gallery), device=query.device)
    query, gallery = rows_of(query), rows_of(gallery)
    for rows in chunks(len(query), len(gallery), query.device.type):
        score, mine = scores(query[rows], gallery), partner[rows, None]
        own = score.gather(1, mine)
        tied = score == own
        if not tied_behind:
            tied &= item <= mine
        # The partner ties with itself, which starts the count at 1.
        rank[rows] = (score > own).sum(1) + tied.sum(1)
    return rank


def average_precision_reference(
    query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor, top: int
) -> Tensor:
    """`average_precision` by sorting whole rows."""
    precision = _average_precision_fake(query, gallery, query_label, gallery_label, top)
    query, gallery = rows_of(query), rows_of(gallery)
    for rows in chunks(len(query), len(gallery), query.device.type):
        order = scores(query[rows], gallery).argsort(dim=1, descending=True, stable=True)
        relevant = shares_label(query_label[rows, None], gallery_label)
        gain, found = precision_of_hits(relevant.gather(1, order).double())
        last = min(top, len(gallery)) - 1
        count = torch.stack([found[:, -1], found[:, last], found[:, -1].clamp(max=top)], dim=1)
        precision[rows] = gain[:, [-1, last, last]] / count.clamp(min=1)
    return precision


# ---- Checks ---------------------------------------------------------------------------------


def _check(op: str, query: Tensor, gallery: Tensor) -> None:
    if not (isinstance(query, Tensor) and isinstance(gallery, Tensor)):
        raise TypeError(f"{op}: expected two tensors, got {_kind(query)} and {_kind(gallery)}")
    if query.dtype != gallery.dtype or query.dtype not in _DTYPES:
        raise TypeError(
            f"{op}: expected one dtype, float32, float64 or int64 (codes), got {query.dtype} and "
            f"{gallery.dtype}"
        )
    if query.device != gallery.device or query.device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"{op}: expected one CPU or CUDA device, got {query.device} and {gallery.device}"
        )
    fits = query.ndim == gallery.ndim == 2 and query.shape[1] == gallery.shape[1]
    if not fits or 0 in gallery.shape:
        raise ValueError(
            f"{op}: expected query [Q, D] and gallery [G, D], nothing but Q zero, got "
            f"{tuple(query.shape)} and {tuple(gallery.shape)}"
        )


def _check_k(op: str, k: int, gallery: Tensor) -> None:
    if not 1 <= k <= len(gallery):
        raise ValueError(f"{op}: expected k from 1 to the {len(gallery)} items, got {k}")


def _check_partner(query: Tensor, partner: Tensor) -> None:
    if not isinstance(partner, Tensor) or partner.dtype != torch.int64:
        raise TypeError(
            f"partner_rank: expected partner to be a tensor of long, got {_kind(partner)}"
        )
    if partner.shape != query.shape[:1] or partner.device != query.device:
        raise ValueError(
            f"partner_rank: expected partner ({len(query)},) on {query.device}, got "
            f"{tuple(partner.shape)} on {partner.device}"
        )


def _check_labels(
    query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor, top: int
) -> None:
    op = "average_precision"
    labels = (query_label, gallery_label)
    if not all(isinstance(label, Tensor) for label in labels) or (
        query_label.dtype != gallery_label.dtype
        or query_label.dtype not in (torch.int64, torch.bool)
    ):
        raise TypeError(
            f"{op}: expected labels to be two tensors of long or of bool, got "
            + " and ".join(_kind(label) for label in labels)
        )
    width = query_label.shape[1:]
    fits = len(width) == (query_label.dtype == torch.bool) and 0 not in width
    if (
        not fits
        or query_label.shape != (len(query), *width)
        or gallery_label.shape != (len(gallery), *width)
        or not query_label.device == gallery_label.device == query.device
    ):
        raise ValueError(
            f"{op}: expected classes ({len(query)},) and ({len(gallery)},) of long or sets "
            f"({len(query)}, L) and ({len(gallery)}, L) of bool on {query.device}, got "
            f"{tuple(query_label.shape)} and {tuple(gallery_label.shape)} of {query_label.dtype}"
        )
    if top < 1:
        raise ValueError(f"{op}: expected top >= 1, got {top}")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


# ---- The operators behind it ----------------------------------------------------------------


def _backend(op: str, query: Tensor) -> str:
    key = query.device.type, query.dtype
    return choose(op, _IMPLEMENTED.get(key, ("reference",)), f"{key[0]} {key[1]}")


def _top_k_kernel(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    _check("top_k", query, gallery)
    _check_k("top_k", k, gallery)
    chosen = _backend("top_k", query)
    if chosen == "reference":
        return top_k_reference(query, gallery, k)
    found = _top_k_fake(query, gallery, k)
    operands = query.contiguous(), gallery.contiguous()
    launch("top_k", chosen, query, *operands, *found, len(query), *gallery.shape, k)
    return found


def _top_k_fake(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    dtype = torch.float32 if query.dtype == torch.int64 else query.dtype
    score = query.new_empty(query.shape[0], k, dtype=dtype)
    return score, torch.empty_like(score, dtype=torch.long)


def _partner_rank_kernel(
    query: Tensor, gallery: Tensor, partner: Tensor, tied_behind: bool
) -> Tensor:
    _check("partner_rank", query, gallery)
    _check_partner(query, partner)
    if len(partner) and not 0 <= int(partner.min()) <= int(partner.max()) < len(gallery):
        raise ValueError(
            f"partner_rank: expected partners from 0 to {len(gallery) - 1}, got "
            f"{int(partner.min())} to {int(partner.max())}"
        )
    chosen = _backend("partner_rank", query)
    if chosen == "reference":
        return partner_rank_reference(query, gallery, partner, tied_behind)
    rank = _partner_rank_fake(query, gallery, partner, tied_behind)
    operands = query.contiguous(), gallery.contiguous(), partner.contiguous()
    launch("partner_rank", chosen, query, *operands, rank, len(query), *gallery.shape, tied_behind)
    return rank


def _partner_rank_fake(
    query: Tensor, gallery: Tensor, partner: Tensor, tied_behind: bool
) -> Tensor:
    return query.new_empty(query.shape[0], dtype=torch.long)


def _average_precision_kernel(
    query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor, top: int
) -> Tensor:
    _check("average_precision", query, gallery)
    _check_labels(query, gallery, query_label, gallery_label, top)
    chosen = _backend("average_precision", query)
    if chosen == "reference":
        return average_precision_reference(query, gallery, query_label, gallery_label, top)
    precision = _average_precision_fake(query, gallery, query_label, gallery_label, top)
    sets = query_label.dtype == torch.bool
    words = _label_words(query_label, -1), _label_words(gallery_label, -2).T.contiguous()
    launch(
        *("average_precision", chosen, query, query.contiguous(), gallery.contiguous(), *words),
        *(precision, len(query), *gallery.shape, len(words[1]), sets, top),
    )
    return precision


def _label_words(label: Tensor, nobody: int) -> Tensor:
    """Labels as 32-bit words [N, 2 W]; classes that are none become one that the other has not."""
    if label.dtype == torch.bool:
        return pack_bits(label).view(torch.int32)
    return label.masked_fill(label < 0, nobody)[:, None].view(torch.int32)


def _average_precision_fake(
    query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor, top: int
) -> Tensor:
    return query.new_empty(query.shape[0], 3, dtype=torch.float64)


_top_k = register(
    "top_k(Tensor query, Tensor gallery, int k) -> (Tensor, Tensor)",
    *(_top_k_kernel, _top_k_fake),
)
_partner_rank = register(
    "partner_rank(Tensor query, Tensor gallery, Tensor partner, bool tied_behind) -> Tensor",
    *(_partner_rank_kernel, _partner_rank_fake),
)
_average_precision = register(
    "average_precision(Tensor query, Tensor gallery, Tensor query_label, Tensor gallery_label, "
    "int top) -> Tensor",
    *(_average_precision_kernel, _average_precision_fake),
)
