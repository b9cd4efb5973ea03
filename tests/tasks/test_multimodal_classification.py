"""Classification of pairs: which rows are learnt from, how models are judged, what is refused."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsyn import streams
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.errors import ConfigError, DataError
from fedsyn.federation import config
from fedsyn.methods.fedmac.network import MissingAwareNet

TRAINING = Training(batch=16, epochs=3, lr=1e-2)
OVERLAY = ["partition.missing_image=0.2", "partition.missing_text=0.1", "partition.unpaired=0.1"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """200 pairs of four classes, some unlabelled: an image and a text tell each one bit of it."""
    draw = np.random.default_rng(0)
    label = np.arange(200) % 4
    image, text = (draw.normal(size=(200, width)) for width in (6, 5))
    image[:, 0] += 4 * (label % 2)
    text[:, 0] += 4 * (label // 2)
    label[:12] = -1
    path = tmp_path_factory.mktemp("pairs") / "pairs.npz"
    split = np.where(np.arange(200) % 5 == 4, "test", "train")
    arrays = {"image": image, "text": text, "split": split}
    np.savez(path, label=label, **arrays)
    np.savez(path.with_name("unlabelled.npz"), **arrays)
    return path


@pytest.fixture
def load(file, built):
    """``load("key=value", ...)``: the data and the problem of three clients."""

    def build(*overrides):
        return built(config.load(None, [
            "task=multimodal_classification", f"data.path={file}", "partition.scheme=iid",
            "partition.clients=3", "model.hidden=[16]", "model.dim=8", *overrides,
        ]))  # fmt: skip

    return build


def trained(data, problem, epochs=20):
    """A model that the first client has trained."""
    start = problem.net.init(streams.generator(0, "model"))[None]
    cohort = Cohort((0,), (problem.rows(data.silos[0]),), 0, 1)
    model, _ = problem.train(start, cohort, TRAINING.changed(epochs=epochs))
    return start, model


def test_clients_train_on_rows_that_lost_a_half_too(load):
    data, problem = load(*OVERLAY)
    for silo in data.silos:
        rows = problem.rows(silo)
        assert np.array_equal(np.union1d(rows, silo.holdout), silo.training)
        assert not np.intersect1d(rows, silo.holdout).size
        whole = problem.present[torch.from_numpy(rows)].all(-1).numpy()
        assert np.array_equal(rows[whole], silo.pairs)


@pytest.mark.parametrize("objective", ["cross_entropy", "ogm_ge", "opm"])
def test_training_learns_what_only_both_halves_tell(load, objective):
    data, problem = load(f"objective={objective}")
    rows = torch.from_numpy(data.test)
    _, model = trained(data, problem)
    metrics = problem.score(problem.outputs(model[0], rows), rows)
    assert metrics["accuracy"] > 0.8
    assert 0.3 < metrics["image_accuracy"] < 0.7 and 0.3 < metrics["text_accuracy"] < 0.7


@pytest.mark.parametrize(
    ("weight", "overrides"),
    [
        (0.0, ["method=fedavg"]),
        (0.0, ["method=mfcpl"]),
        (0.0, ["method=fedmac"]),
        (3.0, ["method=fedavg", "objective.modality=3"]),
        (2.0, ["method=fedcmi"]),
    ],
)
def test_logits_by_one_half_are_of_what_is_trained(load, weight, overrides):
    _, problem = load(*overrides, *OVERLAY)
    assert problem.objective.modality == weight
    model, rows = problem.net.init(torch.Generator()), torch.arange(40)
    assert not problem.present[rows].all()
    fused, image, text = problem.outputs(model, rows)
    features, present = problem.features[None, rows], problem.present[None, rows]
    reading = problem.net.read(model[None], features, present)
    whole = problem.net.halves(reading.parts, reading.fused)
    torch.testing.assert_close(fused, (whole[0] + whole[1])[0])
    classified = problem.net.classify(reading.parts, reading.own)
    for place, mine in enumerate((image, text)):
        only = torch.zeros_like(present)
        only[..., place] = True
        lost = problem.net.read(model[None], features, only)
        halves = problem.net.halves(lost.parts, lost.fused)
        expected = classified[place] if weight else halves[0] + halves[1]
        torch.testing.assert_close(mine, expected[0])


def test_scores_by_hand(load):
    _, problem = load()
    rows = torch.arange(10, 16)  # unlabelled twice, then classes 0 to 3
    sure = 50 * torch.eye(4)
    fused = sure[[1, 1, 0, 1, 2, 0]]
    image, text = sure[[0, 0, 0, 0, 0, 0]], sure[[0, 0, 0, 1, 1, 1]]
    assert problem.score((fused, image, text), rows) == pytest.approx(
        {"accuracy": 3 / 4, "image_accuracy": 1 / 4, "text_accuracy": 2 / 4, "imbalance": 2.0}
    )
    swapped = problem.score((fused, text, image), rows)
    assert swapped["imbalance"] == pytest.approx(2.0)
    nothing = problem.score((fused[:2], image[:2], text[:2]), rows[:2])
    assert all(map(math.isnan, nothing.values()))


def test_held_out_rows_are_judged_by_cross_entropy(load):
    data, problem = load("objective=ogm_ge", "objective.modality=0", "data.holdout=0.4")
    models = torch.stack([problem.net.init(streams.generator(s, "model")) for s in range(3)])
    holdouts = [silo.holdout for silo in data.silos]
    losses, counts, _ = problem.held_out(models, holdouts, batch=2)
    for client, silo in enumerate(data.silos):
        rows = torch.from_numpy(silo.holdout)
        fused, _, _ = problem.outputs(models[client], rows)
        assert counts[client] == len(rows) > 2
        expected = cross_entropy(fused, problem.label[rows])
        torch.testing.assert_close(losses[client], expected.double())
    assert problem.held_out(models[:1], [data.silos[0].holdout[:0]], batch=2) == (0, 0, None)


@pytest.mark.parametrize(
    ("method", "cross"),
    [
        (["method=fedavg"], False),
        (["method=fedcmi"], True),
        (["method=mfcpl"], True),
        (["method=fedmac"], True),
        (["method=fedcmi", "method.fedcmi.projector=own"], False),
    ],
)
def test_only_who_trains_cross_projectors_has_them(load, method, cross):
    net = load(*method)[1].net
    assert net.cross == cross
    assert isinstance(net, MissingAwareNet) == (method == ["method=fedmac"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=info_nce"], r"objective.name = 'info_nce' is not of task.name = 'multimodal"),
        (["run.criterion=alignment_uniformity"], r"run.criterion = 'alignment_uniformity' is not"),
        (["model.hidden=[]"], r"model.hidden = \[\]"),
        (["objective=ogm_ge", "engine.graphs=true"], r"objective.name = 'ogm_ge' draws anew"),
    ],
)
def test_what_does_not_go_together_is_refused(load, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)


def test_there_must_be_labels(load, file):
    with pytest.raises(DataError, match="'multimodal_classification' learns from labels"):
        load(f"data.path={file.with_name('unlabelled.npz')}", "data.label=")


def test_the_task_is_the_methods_own_and_brings_its_objective():
    assert config.load(None, ["method=fedcmi"]).task.name == "multimodal_classification"
    assert config.load(None, ["method=fedcmi"]).objective.name == "cross_entropy"
    chosen = config.load(None, ["method=fedcmi", "objective=ogm_ge"])
    assert chosen.objective.name == "ogm_ge"
