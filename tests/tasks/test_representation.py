"""Representations of pictures: views, what is learnt from them, and how it is judged."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsyn import streams
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.data import augment
from fedsyn.data.silos import NOTHING, Silo
from fedsyn.errors import ConfigError
from fedsyn.federation import config
from fedsyn.metrics import probes
from fedsyn.objectives.pairs.alignment_uniformity import AlignmentUniformityLoss
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.objectives.views.simclr import nt_xent

TRAINING = Training(batch=8, epochs=2, lr=3e-3)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """120 pictures of 8 x 8 pixels: bars that lie, that stand, and checks; some are unlabelled."""
    draw = np.random.default_rng(0)
    line = np.arange(8) % 4 < 2
    kinds = [np.broadcast_to(line[:, None], (8, 8)), np.broadcast_to(line, (8, 8))]
    kinds.append(kinds[0] ^ kinds[1])
    label = np.arange(120) % 3
    picture = np.stack(kinds)[label] * 155 + draw.integers(0, 100, (120, 8, 8))
    shift = draw.integers(0, 4, 120)
    image = np.stack([np.roll(x, s, (0, 1)) for x, s in zip(picture, shift, strict=True)])
    path = tmp_path_factory.mktemp("pictures") / "bars.npz"
    label[:10] = -1
    split = np.where(np.arange(120) % 4 == 3, "test", "train")
    np.savez(path, image=image.astype(np.uint8), text=np.full(120, ""), label=label, split=split)
    return path


@pytest.fixture
def load(file, built):
    """``load("key=value", ...)``: the data and the problem of three clients."""

    def build(*overrides):
        return built(config.load(None, [
            "task=representation", f"data.path={file}", "partition.scheme=iid",
            "partition.clients=3", "model.channels=[8,8]", "model.hidden=[16]", "model.dim=8",
            "method.batch=8", *overrides,
        ]))  # fmt: skip

    return build


def cohort(data, ids=(0, 1, 2), round_number=1):
    return Cohort(tuple(ids), tuple(data.silos[client].pairs for client in ids), 0, round_number)


def test_the_network_sees_the_pixels_as_they_are(load):
    data, problem = load()
    assert problem.net.encoder.picture == (8, 8, 1)
    expected = torch.tensor(data.pairs.image).flatten(1) / 127.5 - 1
    torch.testing.assert_close(problem.features, expected)


def test_every_step_looks_at_new_views_of_its_own_pictures(load):
    data, problem = load()
    seen = {}

    class Watch:
        def __init__(self, name):
            self.name = name

        def __call__(self, params, clients, views, step):
            seen.setdefault(self.name, []).append(views)
            raise StopIteration

    def first_views(name, ids, round_number=1, purpose="local"):
        here = cohort(data, ids, round_number)
        loss = problem.learning(Watch(name), here, TRAINING, purpose)
        index = torch.stack([torch.from_numpy(rows[:8]) for rows in here.rows])
        whole = torch.ones_like(index, dtype=torch.bool)
        for step in range(2):
            with pytest.raises(StopIteration):
                clients = torch.arange(len(ids))
                loss(torch.zeros(len(ids), 1), clients, index, whole, torch.tensor(step))
        return seen[name]

    together, alone = first_views("together", (0, 1, 2)), first_views("alone", (1,))
    for step in range(2):
        assert torch.equal(together[step].first[1], alone[step].first[0])
        assert torch.equal(together[step].second[1], alone[step].second[0])
    assert not torch.allclose(alone[0].first, alone[0].second)
    others = [alone[1], first_views("round", (1,), 2)[0], first_views("else", (1,), 1, "other")[0]]
    assert all(not torch.allclose(alone[0].first, other.first) for other in others)


def test_a_step_by_hand(load):
    data, problem = load("objective=simclr", "objective.simclr.temperature=0.3")
    problem = replace(problem, features=problem.features.double())
    net, training = problem.net, Training(optimizer="sgd", lr=0.1, epochs=1, batch=64)
    start = net.init(torch.Generator().manual_seed(0)).double()
    trained, losses = problem.train(start.expand(3, -1), cohort(data), training)
    for client in range(3):
        rows = data.silos[client].pairs
        stream = streams.generator(0, "local", 1, client)
        order = rows[torch.randperm(len(rows), generator=stream).numpy()]
        pictures = problem.features[torch.from_numpy(order)].view(-1, 8, 8, 1)
        numbers = augment.draw([streams.generator(0, "local.views", 1, client)], 1, 64, 2)[0, 0]
        first, second = (
            augment.augment(pictures, numbers[: len(rows), view].double(), problem.augment)
            for view in range(2)
        )
        both = torch.cat([first, second]).flatten(1)[None]
        leaf = start[None].requires_grad_()
        whole = torch.ones(1, 2 * len(rows), dtype=torch.bool)
        z = net.project(leaf, net.encode(leaf, both), whole)
        loss = nt_xent(z, whole[:, : len(rows)], 0.3)[0]
        (slope,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(trained[client], (leaf - 0.1 * slope)[0].detach())
        torch.testing.assert_close(losses[client], loss.float().detach())


@pytest.mark.parametrize("objective", ["simclr", "moco", "byol", "info_nce"])
def test_local_training_lowers_the_objective_on_pictures_that_it_has_not_seen(load, objective):
    data, problem = load(
        f"objective={objective}", "run.criterion=objective", "objective.moco.queue=16",
        "objective.moco.momentum=0.9", "objective.augment.crop=0.8",
    )  # fmt: skip
    start = problem.net.init(torch.Generator().manual_seed(0))[None]
    everything = Cohort((0,), (np.flatnonzero(~data.pairs.split),), 0, 1)
    trained, _ = problem.train(start, everything, TRAINING.changed(epochs=5))
    before, after = (problem.held_out(model, [data.test], 8)[0] for model in (start, trained))
    assert after < before


def test_held_out_pictures_are_judged_by_the_same_views_every_time(load):
    data, problem = load()
    model = problem.net.init(torch.Generator().manual_seed(0))
    rows = [silo.pairs[:size] for silo, size in zip(data.silos, (5, 1, 8), strict=True)]
    losses, counts, recall = problem.held_out(model.expand(3, -1), rows, 8)
    assert recall is None and counts.tolist() == [5, 0, 8] and losses[1] == 0
    again, *_ = problem.held_out(model.expand(3, -1)[2:], rows[2:], 8)
    torch.testing.assert_close(losses[2:], again)
    index = torch.from_numpy(rows[2])[None]
    numbers = augment.draw([streams.generator(0, "held-out")], 8, 2)
    views = problem.views(index, torch.ones(1, 8, dtype=torch.bool), numbers)
    rows_of_both = problem.net.project(
        model[None], problem.net.encode(model[None], views.both), views.both_valid
    )
    pair = PairBatch(*rows_of_both.chunk(2, 1), views.first, views.valid)
    torch.testing.assert_close(losses[2:].float(), AlignmentUniformityLoss()({}, pair))
    _, judged = load("run.criterion=objective", "objective=simclr")
    loss, *_ = judged.held_out(model[None], rows[2:], 8)
    torch.testing.assert_close(loss.float(), nt_xent(rows_of_both, views.valid, 0.2))


def test_scores_are_of_probes_of_all_labelled_rows_that_nobody_tests_on(load):
    data, problem = load()
    label = data.label.numpy()
    assert np.array_equal(problem.probed.numpy(), np.flatnonzero((label >= 0) & ~data.pairs.split))
    model = problem.net.init(torch.Generator().manual_seed(0))
    test = torch.from_numpy(data.test)
    outputs, probed = problem.outputs(model, test), problem.outputs(model, problem.probed)
    pictures = problem.features[test][None]
    torch.testing.assert_close(outputs[0], problem.net.encode(model[None], pictures)[0])
    predicted = probes.predict(probed[0], data.label[problem.probed], outputs[0])
    judged = problem.probe(outputs, probed)
    assert problem.score(judged, test) == probes.judge(predicted, data.label[test])
    own = [np.array([5, 6, 8]), NOTHING]
    first, second = problem.score_clients(judged, test, own)
    right = predicted["knn"][own[0]] == data.label[test][own[0]]
    assert first["knn"] == pytest.approx(right.double().mean().item())
    assert all(map(math.isnan, second.values()))


def test_public_labels_are_enough_for_the_probes(load):
    data, problem = load("data.public=0.3")
    label = data.label.numpy()
    assert set(problem.probed.tolist()) == {row for row in data.public if label[row] >= 0}


def test_a_server_with_test_rows_alone_judges_those_that_the_probes_have_not_learnt(load, built):
    data, _ = load()
    kept = torch.from_numpy(data.test)
    alone = replace(
        data, pairs=data.pairs.take(data.test), features=data.features[kept],
        label=data.label[kept], test=np.arange(len(kept)),
    )  # fmt: skip
    _, problem = built(config.load(None, ["task=representation"]), alone)
    even = torch.arange(0, len(kept), 2)
    assert torch.equal(problem.probed, even[alone.label[even] >= 0])
    model = problem.net.init(torch.Generator().manual_seed(0))
    test = torch.arange(len(kept))
    outputs, probed = (problem.outputs(model, rows) for rows in (test, problem.probed))
    predicted = probes.predict(probed[0], alone.label[problem.probed], outputs[0])
    odd = slice(1, None, 2)
    expected = probes.judge({k: v[odd] for k, v in predicted.items()}, alone.label[odd])
    assert problem.score(problem.probe(outputs, probed), test) == expected


def test_without_labels_nothing_is_judged(load):
    data, problem = load("data.label=")
    assert len(problem.probed) == 0
    model = problem.net.init(torch.Generator().manual_seed(0))
    test = torch.from_numpy(data.test)
    found = problem.score(problem.probe(problem.outputs(model, test), ()), test)
    assert set(found) == set(probes.METRICS) and all(map(math.isnan, found.values()))


def test_pictures_are_encoded_in_blocks(load, monkeypatch):
    _, problem = load()
    model, rows = problem.net.init(torch.Generator().manual_seed(0)), torch.arange(20)
    (whole,) = problem.outputs(model, rows)
    monkeypatch.setattr("fedsyn.tasks.representation.BLOCK", 7)
    torch.testing.assert_close(problem.outputs(model, rows)[0], whole)


def test_pictures_that_lost_their_text_are_trained_on(load):
    _, problem = load()
    silo = Silo(np.array([4, 9]), np.array([1]), np.array([2, 7]), np.array([7, 8]), NOTHING)
    assert problem.rows(silo).tolist() == [2, 4, 7, 9]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=ucch"], "objective.name = 'ucch' is not of task.name = 'representation'"),
        (["objective.moco.queue=4"], "objective.moco.queue = 4 is less than method.batch = 8"),
        (["method=ccl", "objective=simclr"], "method.name = 'ccl' keeps the queue of objective"),
        (["model.channels=[12]"], "model.channels.0 = 12 is not valid"),
    ],
)
def test_what_does_not_go_together_is_refused(load, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)


def test_retrieval_refuses_an_objective_of_pictures(load, built):
    data, _ = load()
    with pytest.raises(ConfigError, match=r"'simclr' is not of task\.name = 'retrieval'"):
        built(config.load(None, ["objective=simclr"]), data)
