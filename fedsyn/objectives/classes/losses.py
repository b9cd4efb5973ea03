"""Losses of logits, batched over clients: labels' cross-entropy, a teacher's distillation."""

from torch import Tensor
from torch.nn.functional import cross_entropy as row_cross_entropy
from torch.nn.functional import kl_div

from fedsyn.objectives.similarity import masked_mean


def cross_entropy(
    logits: Tensor,  # [C, B, L]
    label: Tensor,  # [C, B] long
    valid: Tensor,  # [C, B] bool
    weight: Tensor | None = None,  # [C, B]
) -> Tensor:  # [C]
    """Each client's mean over its valid rows, each times its weight; 0 where there are none."""
    known = label.masked_fill(~valid, 0)  # other rows may have no label
    losses = row_cross_entropy(logits.flatten(0, 1), known.flatten(), reduction="none")
    losses = losses.view_as(label)
    return masked_mean(losses if weight is None else weight * losses, valid)


def distillation(
    logits: Tensor,  # [C, B, L]
    teacher: Tensor,  # [C, B, L] logits
    valid: Tensor,  # [C, B] bool
    temperature: float,  # T
) -> Tensor:  # [C]
    """T² KL(softmax(teacher / T) ‖ softmax(logits / T)), each client's mean over its valid rows.

    Hinton et al. 2015, arXiv 1503.02531.
    """
    student, known = ((z / temperature).log_softmax(-1) for z in (logits, teacher))
    divergence = kl_div(student, known, reduction="none", log_target=True).sum(-1)
    return temperature**2 * masked_mean(divergence, valid)
