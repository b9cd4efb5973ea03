"""Local training by InfoNCE: all steps of all clients in one call.

w ← w_0;  every step:  u, v = towers(w, features[index]),  L = InfoNCE(u, v),  w ← step(w, dL/dw)

The compiled kernel takes one client after another through all its steps, so that parameters,
moments and gradient stay in the cache, where steps of all clients in turn would stream them from
memory. It is made of the kernels of `fedsyn.ops.mlp` and `fedsyn.ops.info_nce`. Towers with a
linear term, x A + MLP(x), train A too or keep it as it is: then its gradient is not computed.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fedsyn.core.optim import Optimizer
from fedsyn.ops.backends import choose
from fedsyn.ops.checks import check_number
from fedsyn.ops.info_nce import info_nce
from fedsyn.ops.library import launch, register
from fedsyn.ops.mlp import HEADS, mlp, towers_of

OPTIMIZERS = ("adam", "sgd", "rmsprop")
SKIPS = ("none", "trained", "frozen")

# Best first.
_IMPLEMENTED = {("cpu", torch.float32): ("cpu", "reference")}


def train_info_nce(
    params: Tensor,  # [C, P]
    features: Tensor,  # [N, in]
    index: Tensor,  # [S, C, B] long
    sizes: Tensor,  # [S, C] long
    towers: Sequence[Sequence[int]],  # widths of both
    scale: float,
    *,
    head: str = "unit",
    skip: str = "none",
    optimizer: str = "adam",
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor]:  # [C, P], [C]
    """Train every client's two towers on its own batches by symmetric InfoNCE.

    Parameters
    ----------
    params : Tensor [C, P]
        Where each client starts, in the order of `fedsyn.ops.mlp`; left unchanged. Rows may lie any
        distance apart, as those of one ``expand``-ed model do.
    features : Tensor [N, in]
        The inputs of both towers side by side.
    index, sizes : Tensor [S, C, B] and [S, C], int64
        Client ``c`` looks at the rows ``index[s, c, :sizes[s, c]]`` in step ``s``; a step of size
        0 is none.
    towers : sequence of two sequences of int
        Their last widths are equal.
    scale : float
        The inverse temperature.
    head : {"linear", "unit", "tanh_unit"}
        As in `fedsyn.ops.mlp`.
    skip : {"none", "trained", "frozen"}
        Whether the towers have a linear term x A (``skip`` of `fedsyn.ops.mlp`, and where A lies in
        a row), and whether A is trained like the rest or stays as it is, bit for bit: no gradient,
        no step, no weight decay.
    optimizer : {"adam", "sgd", "rmsprop"}
        As ``torch.optim`` has them, with fresh moments.
    lr, betas, momentum, weight_decay, eps : float
        Of the optimiser.

    Returns
    -------
    trained : Tensor [C, P]
    loss : Tensor [C]
        Mean over a client's steps; 0 without any.

    Raises
    ------
    TypeError
        If ``params`` and ``features`` are not of one floating dtype, ``index`` and ``sizes`` not
        int64, or ``skip`` not a word.
    ValueError
        If shapes or devices do not fit, an index is not a row of ``features``, a size is more than
        ``B``, there are not two towers of one output width, a number is not finite, or a name is
        unknown.
    """
    check_number("train_info_nce", "scale", scale)
    numbers = [lr, *betas, momentum, weight_decay, eps]
    for name, value in zip(
        ("lr", "beta1", "beta2", "momentum", "weight_decay", "eps"), numbers, strict=True
    ):
        check_number("train_info_nce", name, value)
    if not isinstance(skip, str):
        raise TypeError(f"train_info_nce: expected skip a word, got {skip!r}")
    widths = [width for tower in towers for width in tower]
    lengths = [len(tower) for tower in towers]
    with torch.no_grad():
        trained, loss = _train(
            params, features, index, sizes, widths, lengths, head, skip, scale, optimizer, numbers
        )
    return trained, loss


def train_info_nce_reference(
    params: Tensor,
    features: Tensor,
    index: Tensor,
    sizes: Tensor,
    towers: Sequence[Sequence[int]],
    head: str,
    skip: Literal["none", "trained", "frozen"],
    scale: float,
    optimizer: Literal["adam", "sgd", "rmsprop"],
    numbers: Sequence[float],  # lr, betas, momentum, weight decay, eps
) -> tuple[Tensor, Tensor]:
    """`train_info_nce` as its formula reads, in PyTorch, one client after another."""
    trained = params.clone(memory_format=torch.contiguous_format)
    losses = params.new_zeros(len(params))
    lr, beta1, beta2, momentum, decay, eps = numbers
    rule = Optimizer(optimizer, lr, (beta1, beta2), momentum, decay, eps)
    frozen = _linear_terms(towers, params) if skip == "frozen" else None
    for client, row in enumerate(trained):
        slots = rule.init(row[None])
        total, steps = 0.0, 0
        for chosen, size in zip(index[:, client], sizes[:, client].tolist(), strict=True):
            if not size:
                continue
            leaf = row.clone().requires_grad_()
            with torch.enable_grad():
                x = features[chosen[None, :size]]
                pair = mlp(x, leaf[None], towers, head=head, skip=skip != "none")
                image, text = pair.chunk(2, -1)
                loss = info_nce(image, text, scale)[0]
                (gradient,) = torch.autograd.grad(loss, leaf)
            rule.step(row[None], gradient[None], slots)
            if frozen is not None:
                row[frozen] = params[client, frozen]
            total, steps = total + float(loss), steps + 1
        losses[client] = total / max(steps, 1)
    return trained, losses


def _linear_terms(towers: Sequence[Sequence[int]], params: Tensor) -> Tensor:
    """Which of a row's parameters are the linear terms', [P]."""
    sizes = []
    for tower in towers:
        sizes += [sum((a + 1) * b for a, b in pairwise(tower)), tower[0] * tower[-1]]
    own = torch.tensor([False, True] * len(towers), device=params.device)
    return own.repeat_interleave(torch.tensor(sizes, device=params.device))


def _run(
    params: Tensor,
    features: Tensor,
    index: Tensor,
    sizes: Tensor,
    widths: list[int],
    lengths: list[int],
    head: str,
    skip: Literal["none", "trained", "frozen"],
    scale: float,
    optimizer: Literal["adam", "sgd", "rmsprop"],
    numbers: list[float],
) -> tuple[Tensor, Tensor]:
    operands = (params, features, index, sizes)
    trained, loss = _fake(*operands, widths, lengths, head, skip, scale, optimizer, numbers)
    _check_index(features, index, sizes)
    device = params.device.type
    implemented = _IMPLEMENTED.get((device, params.dtype), ("reference",))
    chosen = choose("train_info_nce", implemented, f"{device} {params.dtype}")
    if chosen == "reference":
        towers = towers_of(tuple(widths), tuple(lengths)).towers
        return train_info_nce_reference(*operands, towers, head, skip, scale, optimizer, numbers)
    start = params if params.stride(1) == 1 else params.contiguous()
    steps, clients, batch = index.shape
    shape = (widths, lengths, clients, start.stride(0), steps, batch)
    given = (start, *(value.contiguous() for value in operands[1:]))
    launch(
        "train_info_nce", chosen, start, *given, trained, loss, *shape, head, skip, scale,
        optimizer, numbers,
    )  # fmt: skip
    return trained, loss


def _fake(
    params: Tensor,
    features: Tensor,
    index: Tensor,
    sizes: Tensor,
    widths: list[int],
    lengths: list[int],
    head: str,
    skip: str,
    scale: float,
    optimizer: str,
    numbers: list[float],
) -> tuple[Tensor, Tensor]:
    plan = towers_of(tuple(widths), tuple(lengths), skip != "none")
    if len(plan.towers) != 2 or plan.towers[0][-1] != plan.towers[1][-1]:
        raise ValueError(
            f"train_info_nce: expected two towers of one output width, got {plan.towers}"
        )
    words = (("head", head, HEADS), ("skip", skip, SKIPS), ("optimizer", optimizer, OPTIMIZERS))
    for name, word, known in words:
        if word not in known:
            expected = ", ".join(known)
            raise ValueError(f"train_info_nce: expected {name} one of {expected}, got {word!r}")
    if params.dtype != features.dtype or not params.is_floating_point():
        raise TypeError(
            "train_info_nce: expected one floating dtype, "
            f"got params {params.dtype} and features {features.dtype}"
        )
    for name, value in (("index", index), ("sizes", sizes)):
        if value.dtype != torch.int64:
            raise TypeError(f"train_info_nce: expected {name} of int64, got {value.dtype}")
    for name, value in (("features", features), ("index", index), ("sizes", sizes)):
        if value.device != params.device:
            raise ValueError(
                f"train_info_nce: expected one device, got params on {params.device} "
                f"and {name} on {value.device}"
            )
    if index.ndim != 3:
        raise ValueError(f"train_info_nce: expected index [S, C, B], got {tuple(index.shape)}")
    steps, clients, _ = index.shape
    shapes = {
        "params": (params, (clients, plan.params)),
        "features": (features, (len(features), plan.ins)),
        "sizes": (sizes, (steps, clients)),
    }
    for name, (value, shape) in shapes.items():
        if value.shape != shape:
            raise ValueError(f"train_info_nce: expected {name} {shape}, got {tuple(value.shape)}")
    return params.new_empty((clients, plan.params)), params.new_empty((clients,))


def _check_index(features: Tensor, index: Tensor, sizes: Tensor) -> None:
    batch = index.shape[2]
    if sizes.numel() and not 0 <= int(sizes.min()) <= int(sizes.max()) <= batch:
        raise ValueError(f"train_info_nce: expected sizes from 0 to {batch}, the batch")
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(features):
        raise ValueError(
            f"train_info_nce: expected index of rows below {len(features)}, "
            f"got {int(index.min())} to {int(index.max())}"
        )


_train = register(
    "train_info_nce(Tensor params, Tensor features, Tensor index, Tensor sizes, int[] widths, "
    "int[] lengths, str head, str skip, float scale, str optimizer, float[] numbers) "
    "-> (Tensor, Tensor)",
    *(_run, _fake),
)
