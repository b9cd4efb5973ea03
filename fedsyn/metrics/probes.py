"""What labels can be read off a representation that was learnt without them.

The usual judges of self-supervised features: a linear classifier on frozen features (Zhang et al.
2016, arXiv 1603.08511), the same from a small share of the labels, and the vote of the nearest
neighbours (Wu et al. 2018, arXiv 1805.01978, section 3.4).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn import streams
from fedsyn.metrics import classification
from fedsyn.ops.ranking import top_k

NEIGHBOURS = 20
TEMPERATURE = 0.07  # of a neighbour's weight
ITERATIONS = 1000  # of the linear classifier, at most
SHARES: Mapping[str, float] = {"semi1": 0.01, "semi10": 0.1}
METRICS = (
    "linear_accuracy", "linear_balanced_accuracy", "knn_accuracy",
    *(f"{name}_accuracy" for name in SHARES),
)  # fmt: skip


def evaluate(
    training: Tensor,  # [n, d]
    training_label: Tensor,  # [n] long
    test: Tensor,  # [m, d]
    test_label: Tensor,  # [m] long
) -> dict[str, float]:
    """Accuracies of all probes on the test rows.

    Parameters
    ----------
    training, test : Tensor of shape [n, d], [m, d]
        Features; the linear probes see them with the training rows' means and deviations taken out.
    training_label, test_label : Tensor of shape [n], [m]
        Classes; rows with -1 are unlabelled: neither learnt from nor judged.

    Returns
    -------
    dict of str to float
        ``linear_accuracy`` and ``linear_balanced_accuracy``: the linear probe; ``knn_accuracy``:
        the nearest neighbours; ``semi1_accuracy``, ``semi10_accuracy``: the linear probe from 1 %
        and 10 % of each class's labels, at least one, always the same. All NaN where there is
        nothing to learn from or to judge, or a feature is not finite.
    """
    known, judged = training_label >= 0, test_label >= 0
    label, truth = training_label[known].long(), test_label[judged].long()
    finite = bool(training.isfinite().all() and test.isfinite().all())
    if not finite or not len(label) or not len(truth):
        return dict.fromkeys(METRICS, float("nan"))
    mean, deviation = training.mean(0), training.std(0, correction=0)
    scale = deviation.where(deviation > 0, 1)
    reference, query = (training[known] - mean) / scale, (test[judged] - mean) / scale
    predicted = {"linear": linear(reference, label, query)}
    predicted["knn"] = nearest(training[known], label, test[judged])
    for name, share in SHARES.items():
        rows = few_labels(label, share, streams.generator(0, f"probe.{name}"))
        predicted[name] = linear(reference[rows], label[rows], query)
    found = {
        f"{name}_{metric}": value
        for name, classes in predicted.items()
        for metric, value in classification.evaluate(classes, truth).items()
    }
    return {name: found[name] for name in METRICS}


def linear(training: Tensor, label: Tensor, test: Tensor) -> Tensor:  # [m] long
    """Classes of ``test [m, d]`` by multinomial logistic regression on ``training [n, d]``.

    With an L2 penalty of one half of the squared weights against the sum of the rows' losses.
    """
    from sklearn.linear_model import LogisticRegression

    if bool((label == label[0]).all()):  # there is nothing to tell apart
        return label[:1].expand(len(test))
    classifier = LogisticRegression(max_iter=ITERATIONS)
    classifier.fit(training.numpy(force=True), label.numpy(force=True))
    return torch.from_numpy(classifier.predict(test.numpy(force=True))).to(label)


def nearest(training: Tensor, label: Tensor, test: Tensor) -> Tensor:  # [m] long
    """Classes of ``test [m, d]`` by the 20 rows of ``training [n, d]`` of the largest cosine s.

    Each votes for its class with exp(s / 0.07).
    """
    gallery, query = normalize(training, dim=-1), normalize(test, dim=-1)
    score, index = top_k(query, gallery, min(NEIGHBOURS, len(gallery)))
    votes = score.new_zeros(len(query), int(label.max()) + 1)
    return votes.scatter_add_(1, label[index], (score / TEMPERATURE).exp()).argmax(-1)


def few_labels(label: Tensor, share: float, generator: torch.Generator) -> Tensor:  # [k] long
    """Rows that make up this share of each class of ``label [n]``, at least one of each."""
    order = torch.randperm(len(label), generator=generator).to(label.device)
    rows = [order[label[order] == one] for one in label.unique()]
    return torch.cat([mine[: max(1, round(share * len(mine)))] for mine in rows])
