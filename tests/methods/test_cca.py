"""Federated canonical correlation analysis beside one on pooled features by Cholesky factors."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy.linalg import cholesky, solve_triangular, svd

from fedsyn.core.payload import nbytes
from fedsyn.data import federated
from fedsyn.data.moments import moments_like, pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.federation import records
from fedsyn.federation.client import initial_model
from fedsyn.federation.config import data_settings, load
from fedsyn.federation.devices import HOST
from fedsyn.federation.evaluation import outputs
from fedsyn.federation.federation import federation
from fedsyn.federation.runner import run
from fedsyn.tasks.retrieval import RIDGES, _rotation

IMAGE, KEPT = 9, 7  # numbers of a picture's features, and of canonical directions


def world(config):
    """The federation of a run, the features, and the rows of each client's pairs."""
    fed = federation(config, federated.load(data_settings(config)), HOST)
    return fed, fed.problem.features.double().numpy(), [silo.pairs for silo in fed.silos]


def analysed(features, ridge):
    """Means, maps to canonical variates and correlations, of pooled pairs."""
    halves = np.split(features, [IMAGE], 1)
    means = [half.mean(0) for half in halves]
    x, y = (half - mean for half, mean in zip(halves, means, strict=True))
    factors = []
    for half in (x, y):
        own = half.T @ half / len(half)
        width = len(own)
        factors.append(cholesky(own + ridge * np.trace(own) / width * np.eye(width), lower=True))
    left = solve_triangular(factors[0], x.T @ y / len(x), lower=True)
    whole = solve_triangular(factors[1], left.T, lower=True).T
    u, strength, vt = svd(whole, full_matrices=False)
    maps = [
        solve_triangular(factor, vectors, lower=True, trans=1) * strength**0.5
        for factor, vectors in zip(factors, (u, vt.T), strict=True)
    ]
    return means, maps


def embedded(features, means, maps):
    return [
        (half - mean) @ weight
        for half, mean, weight in zip(np.split(features, [IMAGE], 1), means, maps, strict=True)
    ]


def ranks(image, text, held, among):
    """Of the partners of held-out pairs, both ways, who ties before them."""
    rows = np.concatenate([held, among])
    found = []
    for query, gallery in ((image, text), (text, image)):
        alike = query[held] @ gallery[rows].T
        found.append((alike >= alike[:, : len(held)].diagonal()[:, None] - 1e-9).sum(1))
    return np.concatenate(found)


def criterion(image, text, silos):
    """The mean log-rank of all held-out pairs."""
    found = [np.log(ranks(image, text, silo.holdout, silo.pairs)) for silo in silos]
    return np.concatenate(found).mean()


def units(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_it_is_the_analysis_of_pooled_pairs_with_the_ridge_that_held_out_ones_like_best(
    settings, tmp_path
):
    config = load(None, [*settings, "method=cca"])
    fed, features, clients = world(config)
    tried = [analysed(features[np.concatenate(clients)], ridge) for ridge in RIDGES]
    unit = [[units(half) for half in embedded(features, *each)] for each in tried]
    judged = [criterion(*each, fed.silos) for each in unit]
    best = judged.index(min(judged))
    run(config, tmp_path)
    (row,) = map(json.loads, (tmp_path / records.METRICS).read_text().splitlines())
    words = f"ridge {RIDGES[best]:g}", f"{KEPT} directions"
    assert all(one in row["server"]["start"] for one in words)
    assert row["losses"]["holdout"] == pytest.approx(judged[best], abs=1e-6)
    model = load_file(tmp_path / records.CHECKPOINT)["server/model"]
    image, text = outputs(fed, model[0], np.arange(len(features)))
    np.testing.assert_allclose(
        image.double() @ text.double().T, unit[best][0] @ unit[best][1].T, atol=1e-5
    )


def test_codes_are_the_signs_of_the_canonical_variates_turned_or_not(settings):
    fed, features, clients = world(load(None, [*settings, "method=cca", "model.bits=8"]))
    total = add(pair_moments(fed.problem.features, clients))
    starts = fed.problem.starts(initial_model(fed.problem.net, 0), total)
    assert len(starts) == 2 * len(RIDGES)
    rows = fed.problem.features[None]
    for place, ridge in enumerate(RIDGES):
        means, maps = analysed(features[np.concatenate(clients)], ridge)
        plain, turned = starts[2 * place : 2 * place + 2]
        # A direction is one up to its sign, the same of both halves.
        weight = fed.problem.net.layout.views(plain.model)["image.0.weight"][:, :KEPT].numpy()
        sign = np.sign((weight * maps[0]).sum(0))
        variates = embedded(features, means, [each * sign for each in maps])
        for start, turn in ((plain, np.eye(8)), (turned, _rotation(8).numpy())):
            for found, own in zip(fed.problem.net.embed(start.model[None], rows), variates,
                                  strict=True):  # fmt: skip
                expected = np.pad(own, ((0, 0), (0, 1))) @ turn
                clear = np.abs(expected) > 1e-4
                assert ((found[0].numpy() >= 0) == (expected >= 0))[clear].all()


def test_nothing_is_trained_and_one_exchange_and_a_verdict_are_all_that_is_sent(settings, tmp_path):
    own = "method=cca", "run.rounds=7", "model.start=random"
    summary = run(load(None, [*settings, *own]), tmp_path)
    (row,) = map(json.loads, (tmp_path / records.METRICS).read_text().splitlines())
    assert (summary["rounds"], summary["synthesis"]) == (0, "off")
    assert summary["metrics"] == row["metrics"] and summary["metrics"]["map"] > 0.5
    assert set(row["seconds"]) == {"start", "evaluate", "checkpoint"}
    verdict = 8 * (2 * len(RIDGES) + 1)  # a criterion and a recall of each, and the rows judged
    assert row["bytes_up"] == 10 * (nbytes(moments_like(16)) + verdict)
    model = load_file(tmp_path / records.MODEL)
    shapes = {name: tuple(value.shape) for name, value in model.items()}
    assert shapes == {
        "image.0.weight": (9, 8), "image.0.bias": (1, 8),
        "text.0.weight": (7, 8), "text.0.bias": (1, 8),
    }  # fmt: skip
