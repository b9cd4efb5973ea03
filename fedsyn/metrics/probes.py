"""What labels can be read off a representation that was learnt without them.

The usual judges of self-supervised features: a linear classifier on frozen features (Zhang et al.
2016, arXiv 1603.08511), the same from a small share of the labels, and the vote of the nearest
neighbours (Wu et al. 2018, arXiv 1805.01978, section 3.4).
"""

import warnings
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
SHARES: Mapping[str, float] = {"semi_1": 0.01, "semi_10": 0.1}
METRICS = ("linear_probe", "knn", *SHARES)


def predict(
    training: Tensor,  # [n, d]
    label: Tensor,  # [n] long
    test: Tensor,  # [m, d]
) -> dict[str, Tensor]:  # [m] long by probe
    """What all probes take the test rows for.

    Parameters
    ----------
    training, test : Tensor of shape [n, d], [m, d]
        Features; the linear probes see them with the training rows' means and deviations taken out.
    label : Tensor of shape [n]
        Classes of the training rows, none of them unlabelled.

    Returns
    -------
    dict of str to Tensor of shape [m]
        ``linear_probe``; ``knn``: the nearest neighbours; ``semi_1``, ``semi_10``: the linear probe
        from 1 % and 10 % of each class's labels, at least one, always the same. Empty where there
        are no training or no test rows, or a feature is not finite.
    """
    finite = bool(training.isfinite().all() and test.isfinite().all())
    if not finite or not len(training) or not len(test):
        return {}
    mean, deviation = training.mean(0), training.std(0, correction=0)
    scale = deviation.where(deviation > 0, 1)
    reference, query = (training - mean) / scale, (test - mean) / scale
    predicted = {
        "linear_probe": linear(reference, label, query),
        "knn": nearest(training, label, test),
    }
    for name, share in SHARES.items():
        rows = few_labels(label, share, streams.generator(0, f"probe.{name}"))
        predicted[name] = linear(reference[rows], label[rows], query)
    return predicted


def judge(predicted: Mapping[str, Tensor], label: Tensor) -> dict[str, float]:
    """The accuracy of each probe.

    Parameters
    ----------
    predicted : dict of str to Tensor of shape [m]
        Of `predict`.
    label : Tensor of shape [m]
        The true classes; rows with -1 are unlabelled and cannot be judged.

    Returns
    -------
    dict of str to float
        ``linear_probe``, ``knn``, ``semi_1``, ``semi_10``; NaN where there is nothing to judge.
    """
    found = dict.fromkeys(METRICS, float("nan"))
    for name, classes in predicted.items():
        found[name] = classification.evaluate(classes, label)["accuracy"]
    return found


def linear(training: Tensor, label: Tensor, test: Tensor) -> Tensor:  # [m] long
    """Classes of ``test [m, d]`` by multinomial logistic regression on ``training [n, d]``.

    With an L2 penalty of one half of the squared weights against the sum of the rows' losses.
    """
    from sklearn.linear_model import LogisticRegression

    if bool((label == label[0]).all()):  # there is nothing to tell apart
        return label[:1].expand(len(test))
    classifier = LogisticRegression(max_iter=ITERATIONS)
    with warnings.catch_warnings():  # 1 % of the rows may be as few as there are classes
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
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
