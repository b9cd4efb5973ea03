"""InfoNCE over batches that lie on several processes, one block of rows on each.

No process holds more of the similarities than the blocks its kernel works on. Beside the gathered
``y``, two vectors as long as the whole batch are reduced (the columns' log-sum-exps), and the
gradient of ``y`` is scattered back as it is summed: the decomposition of DisCo-CLIP (Chen et al.
2023, arXiv 2304.08480).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fedsyn.ops.checks import check_same_shape, check_scale
from fedsyn.ops.info_nce import gradients, log_sum_exps, sums_dtype


def info_nce_distributed(
    x: Tensor,  # [b, D] unit rows of this process
    y: Tensor,  # [b, D] unit rows of this process, row i the partner of x's row i
    scale: float | Tensor,  # 1 / temperature, the same on all processes
    group: dist.ProcessGroup | None = None,
) -> Tensor:  # []
    """`fedsyn.ops.info_nce` of the batch that all processes of ``group`` hold together.

    Parameters
    ----------
    x, y : Tensor [b, D]
        The same ``b`` on every process. The whole batch is in the order of the ranks.
    scale : float or Tensor []
        Inverse temperature; a tensor may require its gradient.
    group : ProcessGroup, optional
        The default group if left out.

    Returns
    -------
    Tensor []
        The loss of the whole batch, the same on every process.

    Raises
    ------
    TypeError
        If ``x`` and ``y`` are not of one floating dtype.
    ValueError
        If ``x`` and ``y`` are not [b, D] alike, or the processes' shapes differ.
    RuntimeError
        If ``torch.distributed`` is not initialised.

    Notes
    -----
    Gradients are those of the one loss: to this process's rows, and for a tensor ``scale`` the
    whole derivative. ``DistributedDataParallel`` averages the gradients of parameters over
    processes, so there multiply the loss by the number of processes, which leaves the derivative
    to ``scale`` that many times too large unless it is averaged as well.
    """
    check_same_shape("info_nce_distributed", x, y, dims=2)
    check_scale("info_nce_distributed", scale)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"info_nce_distributed: expected x [b, D], got {tuple(x.shape)}")
    if not dist.is_initialized():
        raise RuntimeError(
            "info_nce_distributed: torch.distributed is not initialised; "
            "call torch.distributed.init_process_group first"
        )
    _check_alike(x, group)
    precise = sums_dtype(x.dtype)
    if isinstance(scale, Tensor):
        scale = scale.to(precise).reshape(())
    else:
        scale = x.new_tensor(scale, dtype=precise)
    loss: Tensor = _Distributed.apply(x, y, scale, group)
    return loss


def _check_alike(x: Tensor, group: dist.ProcessGroup | None) -> None:
    sizes = torch.tensor([*x.shape, *(-size for size in x.shape)], device=x.device)
    dist.all_reduce(sizes, dist.ReduceOp.MAX, group=group)
    most, least = tuple(sizes[:2].tolist()), tuple((-sizes[2:]).tolist())
    if most != least:
        raise ValueError(
            f"info_nce_distributed: expected x of one shape on all processes, got {tuple(x.shape)} "
            f"on this one and from {least} to {most} on all"
        )


class _Distributed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, group: dist.ProcessGroup | None
    ) -> Tensor:
        own, width = x.shape
        total = own * dist.get_world_size(group)
        every_y = y.new_empty(total, width)
        dist.all_gather(list(every_y.split(own)), y.contiguous(), group=group)
        row_sums, part = log_sum_exps(x[None], every_y[None], scale[None])

        # log Σ exp over the processes' parts of every column.
        greatest = part.clone()
        dist.all_reduce(greatest, dist.ReduceOp.MAX, group=group)
        columns = (part - greatest).exp()
        dist.all_reduce(columns, group=group)
        columns = columns.log() + greatest

        ctx.group, ctx.first = group, own * dist.get_rank(group)
        ctx.save_for_backward(x, every_y, scale, row_sums, columns)
        partners = columns[0, ctx.first : ctx.first + own]
        positive = scale * (x.to(scale.dtype) * y.to(scale.dtype)).sum(-1)
        loss = ((row_sums[0] + partners) / 2 - positive).sum() / total
        dist.all_reduce(loss, group=group)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, every_y, scale, row_sums, columns = ctx.saved_tensors
        # `gradients` takes the mean over this process's rows, the loss that over all.
        grad = grads[0] * (len(x) / len(every_y))
        to_x, to_every_y, to_scale = gradients(
            grad[None], x[None], every_y[None], scale[None], None, row_sums, columns, ctx.first
        )
        to_y = torch.empty_like(x)
        dist.reduce_scatter(to_y, list(to_every_y[0].split(len(x))), group=ctx.group)
        dist.all_reduce(to_scale, group=ctx.group)
        return to_x[0], to_y, to_scale[0], None
