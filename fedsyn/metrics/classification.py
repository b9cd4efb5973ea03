"""Classification metrics: accuracy over rows, over classes, and over classes by their frequency.

The groups by frequency are those of the long-tailed literature (Liu et al. 2019, arXiv 1904.05160):
classes with many, a medium number of, and few training rows.
"""

import torch
from torch import Tensor

MANY, FEW = 100, 20  # more training rows than the first, fewer than the second; medium between


def evaluate(
    predicted: Tensor,  # [N] long
    label: Tensor,  # [N] long
    training: Tensor | None = None,  # [L]
) -> dict[str, float]:
    """Accuracy of ``N`` predicted classes.

    Parameters
    ----------
    predicted : Tensor of shape [N]
        Classes as integers from 0.
    label : Tensor of shape [N]
        The true classes; rows with -1 are unlabelled and cannot be judged.
    training : Tensor of shape [L], optional
        How many training rows each class has.

    Returns
    -------
    dict of str to float
        ``accuracy``: share of the rows that are right; ``balanced_accuracy``: mean over the classes
        of the share of their rows that are right; with ``training`` also ``many_shot``,
        ``medium_shot`` and ``few_shot``: the same mean over the classes with more than 100,
        20 to 100 and fewer than 20 training rows. Classes without test rows enter no mean; a mean
        of nothing is NaN.

    Raises
    ------
    ValueError
        If the shapes disagree, or a label has no place in ``training``.
    """
    _check(predicted, label, training)
    known = label >= 0
    predicted, label = predicted[known], label[known].long()
    right = predicted == label
    recall = _recall(right, label, 0 if training is None else len(training))
    metrics = {
        "accuracy": right.double().mean().item(),
        "balanced_accuracy": recall.nanmean().item(),
    }
    if training is not None:
        many, few = training > MANY, training < FEW
        groups = {"many": many, "medium": ~(many | few), "few": few}
        metrics |= {
            f"{name}_shot": recall[group.to(recall.device)].nanmean().item()
            for name, group in groups.items()
        }
    return metrics


def discrepancy(
    image: Tensor,  # [..., n, L]
    text: Tensor,  # [..., n, L]
    label: Tensor,  # [..., n] long
    mask: Tensor,  # [..., n] bool
) -> Tensor:  # [...]
    """How much surer of the true classes images are than texts: Σ s_image / Σ s_text.

    Parameters
    ----------
    image, text : Tensor of shape [..., n, L]
        Logits, of whose softmax s is the true class's.
    label : Tensor of shape [..., n]
        The true classes; anything below L where not in ``mask``.
    mask : Tensor of shape [..., n]
        The rows that count.

    Returns
    -------
    Tensor of shape [...]
        1 where no row counts.

    References
    ----------
    Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022.
    """
    image, text = (
        true_class(logits, label).masked_fill(~mask, 0).sum(-1) for logits in (image, text)
    )
    least = torch.finfo(image.dtype).tiny
    return image.clamp(min=least) / text.clamp(min=least)


def true_class(logits: Tensor, label: Tensor) -> Tensor:  # [..., n, L], [..., n] -> [..., n]
    """The probability of each row's class."""
    return logits.softmax(-1).gather(-1, label[..., None]).squeeze(-1)


def _recall(right: Tensor, label: Tensor, classes: int) -> Tensor:  # [L]
    """The share of each class's rows that are right, in float64; NaN where it has none."""
    rows = torch.bincount(label, minlength=classes)
    return torch.bincount(label[right], minlength=len(rows)).double() / rows


def _check(predicted: Tensor, label: Tensor, training: Tensor | None) -> None:
    if label.ndim != 1 or predicted.shape != label.shape:
        raise ValueError(
            f"predictions are {tuple(predicted.shape)} and labels {tuple(label.shape)}; "
            "expected two [N]"
        )
    if training is not None and len(label) and int(label.max()) >= len(training):
        raise ValueError(
            f"label {int(label.max())} has no training count; expected labels below {len(training)}"
        )
