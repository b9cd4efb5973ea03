"""The log-softmax of every row's own partner among all partners, without the matrix of them all.

S = scale · X Yᵀ,   out_k = S_kk − log Σ_j e^{S_kj}

(the score of contrastive representation ensembles, Yu et al. 2023, CreamFL, arXiv 2302.08888.)

The compiled kernels are those of `fedsyn.ops.info_nce`, whose forward pass keeps the log-sum-exps
and nothing of S.
"""

from torch import Tensor

from fedsyn.ops.checks import check_number, check_same_shape
from fedsyn.ops.chunks import chunks
from fedsyn.ops.info_nce import implementation, log_sum_exps, sums_dtype
from fedsyn.ops.library import register

_BLOCK = 1 << 22  # similarities that the reference holds at a time


def diagonal_log_softmax(
    x: Tensor,  # [P, D]
    y: Tensor,  # [P, D], row k the partner of x's row k
    scale: float,  # 1 / temperature
) -> Tensor:  # [P]
    """How sure each row of ``x`` is of its partner: the log-probability of it among all of ``y``.

    Parameters
    ----------
    x, y : Tensor [P, D]
        Float32, float64, or half precision, whose similarities and sums are kept in float32.
    scale : float
        Inverse temperature.

    Returns
    -------
    Tensor [P]
        ``-log P`` where all similarities are equal. float32 for half precision, else as ``x``. No
        gradient flows.

    Raises
    ------
    TypeError
        If ``x`` and ``y`` are not of one floating dtype, or ``scale`` is not a number.
    ValueError
        If they are not [P, D] alike on one device, D is zero, or ``scale`` is not finite.

    Notes
    -----
    Memory is linear in P.
    """
    check_number("diagonal_log_softmax", "scale", scale)
    found: Tensor = _diagonal_log_softmax(x.detach(), y.detach(), float(scale))
    return found


def diagonal_log_softmax_reference(
    x: Tensor,  # [P, D]
    y: Tensor,  # [P, D]
    scale: float,
) -> Tensor:  # [P]
    """`diagonal_log_softmax` as its formula reads, in PyTorch, a block of rows at a time."""
    found, precise = _fake(x, y, scale), sums_dtype(x.dtype)
    wide = y.to(precise)
    for rows in chunks(len(x), len(y), x.device.type, most=_BLOCK):
        similarity = scale * (x[rows].to(precise) @ wide.T)
        found[rows] = similarity.log_softmax(-1).diagonal(rows.start)
    return found


# ---- The operator behind it -----------------------------------------------------------------


def _forward(x: Tensor, y: Tensor, scale: float) -> Tensor:
    _check(x, y)
    if implementation(x, "diagonal_log_softmax") == "reference":
        return diagonal_log_softmax_reference(x, y, scale)
    precise = sums_dtype(x.dtype)
    rows, _ = log_sum_exps(x[None], y[None], x.new_full((1,), scale, dtype=precise))
    return scale * (x.to(precise) * y.to(precise)).sum(-1) - rows[0]


def _check(x: Tensor, y: Tensor) -> None:
    check_same_shape("diagonal_log_softmax", x, y, dims=2)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"diagonal_log_softmax: expected x [P, D] with D > 0, got {tuple(x.shape)}"
        )


def _fake(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape[0], dtype=sums_dtype(x.dtype))


_diagonal_log_softmax = register(
    "diagonal_log_softmax(Tensor x, Tensor y, float scale) -> Tensor",
    *(_forward, _fake),
)
