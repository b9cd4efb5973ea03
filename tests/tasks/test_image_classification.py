"""Classification of pictures: what is trained on, what of, and how it is judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy

from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.data.augment import AugmentConfig
from fedsyn.data.silos import Silo
from fedsyn.encoders.base import Teacher
from fedsyn.errors import ConfigError
from fedsyn.federation.config import parse
from fedsyn.models.picture_classifier import PictureClassifier
from fedsyn.models.resnet import ResNet
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.tasks.image_classification import ImageClassificationProblem

DRAW = torch.Generator().manual_seed(0)
STILL = AugmentConfig(crop=1, brightness=0, contrast=0, saturation=0, grey=0)
NET = PictureClassifier(ResNet("encoder", (6, 6, 1), (8,)), dim=4, classes=3)
LABEL = torch.tensor([0, 1, 2, 0, 1, -1, 0, 2, 2, 1])
PROBLEM = ImageClassificationProblem(
    features=2 * torch.rand(10, 36, generator=DRAW, dtype=torch.float64) - 1,
    net=NET,
    label=LABEL,
    objective=cross_entropy,
    augment=STILL,
    training=torch.tensor([200, 50, 3]),
)
MODEL = NET.init(DRAW).double()
PLAIN = Training(optimizer="sgd", lr=0.5, epochs=1, batch=16)


def cohort(*rows):
    return Cohort(tuple(range(len(rows))), tuple(np.array(own) for own in rows), 0, 1)


def loss_of(model, rows):
    return torch_cross_entropy(NET(model[None], PROBLEM.features[rows][None])[0], LABEL[rows])


def test_training_is_descent_on_the_cross_entropy_of_each_clients_rows():
    rows = ([0, 1, 2, 3], [4, 6, 7])
    trained, losses = PROBLEM.train(MODEL.expand(2, -1), cohort(*rows), PLAIN)
    for client, mine in enumerate(rows):
        leaf = MODEL.clone().requires_grad_()
        loss = loss_of(leaf, mine)
        (slope,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(trained[client], MODEL - 0.5 * slope)
        torch.testing.assert_close(losses[client].double(), loss.detach(), atol=1e-6, rtol=0)


def test_a_penalty_sees_the_batch_and_its_logits():
    def penalty(clients, batch):
        assert torch.equal(batch.label, LABEL[batch.rows])
        torch.testing.assert_close(batch.logits, NET(batch.params, batch.pixels))
        torch.testing.assert_close(batch.pixels, PROBLEM.features[batch.rows])
        return -cross_entropy(batch.logits, batch.label, batch.valid)

    trained, losses = PROBLEM.train(MODEL[None], cohort([0, 1, 2]), PLAIN, penalty=penalty)
    torch.testing.assert_close(trained[0], MODEL)
    assert losses.tolist() == [0]


def test_each_client_sees_views_of_its_own_whatever_the_stack():
    shaken = replace(PROBLEM, augment=AugmentConfig())
    config = PLAIN.changed(batch=2, epochs=3)
    rows = ([0, 1, 2, 3, 4], [3, 4], [0, 1, 2, 3, 4])
    together, _ = shaken.train(MODEL.expand(3, -1), cohort(*rows), config)
    alone = shaken.train(MODEL[None], cohort(*rows).take([2]), config)[0]
    torch.testing.assert_close(together[2:], alone)
    assert not torch.allclose(together[0], together[2])  # the same rows, other views
    still, _ = PROBLEM.train(MODEL[None], cohort(*rows).take([2]), config)
    assert not torch.allclose(still, alone)


def test_held_out_rows_are_judged_as_they_are_class_by_class():
    shaken = replace(PROBLEM, augment=AugmentConfig())
    rows = [np.array([0, 1, 2, 3, 4]), np.array([7]), np.array([], dtype=int)]
    losses, counts, recall = shaken.held_out(MODEL.expand(3, -1), rows, batch=2)
    assert counts.tolist() == [3, 1, 0] and recall is None
    first = sum(loss_of(MODEL, own) for own in ([0, 3], [1, 4], [2])) / 3
    expected = torch.stack([first, loss_of(MODEL, [7]), torch.zeros(())])
    torch.testing.assert_close(losses, expected, check_dtype=False)


def test_metrics_are_of_the_classes_predicted():
    model = MODEL.clone()
    NET.split(model)[1][-3:] = torch.tensor([0.0, 0.0, 100.0])  # the biases
    rows = torch.arange(10)
    outputs = PROBLEM.outputs(model, rows)
    assert outputs[0].tolist() == [2] * 10
    found = PROBLEM.score(outputs, rows)
    assert found["accuracy"] == pytest.approx(3 / 9)  # of the labelled ones
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert [found[f"{name}_shot"] for name in ("many", "medium", "few")] == [0, 0, 1]
    unknown = replace(PROBLEM, training=None).score(outputs, rows)
    assert set(unknown) == {"accuracy", "balanced_accuracy"}


def test_rows_that_lost_their_text_are_trained_on():
    parts = {"pairs": [1, 5], "holdout": [0], "images": [3], "texts": [4], "test": [7]}
    silo = Silo(**{name: np.array(rows) for name, rows in parts.items()})
    assert PROBLEM.rows(silo).tolist() == [1, 3, 5]


@pytest.fixture
def made(tmp_path, built):
    """``made(section={...})``: data and problem of a run on 40 pictures of two kinds."""
    draw = np.random.default_rng(0)
    path = tmp_path / "pictures.npz"
    np.savez(
        path,
        image=draw.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8),
        text=np.array(["a"] * 40),
        label=np.array(["cat", "dog"])[(np.arange(40) % 4 == 0).astype(int)],
        split=np.where(np.arange(40) % 5 == 0, "test", "train"),
    )

    def build(teacher=None, **sections):
        data = {"path": str(path), "cache": "", "holdout": 0.0}
        partition = {"clients": 2, "scheme": "iid"}
        task = {"name": "image_classification"}
        tree = {"data": data, "partition": partition, "task": task, **sections}
        return built(parse(tree, **({"teacher": teacher} if teacher else {})))

    return build


def test_the_network_has_the_pictures_size_and_the_classes_of_the_data(made):
    data, problem = made(model={"dim": 5, "channels": [8, 16], "stride": 2})
    assert problem.net.encoder.picture == (12, 12, 3)
    assert (problem.net.dim, problem.net.classes) == (5, 2)
    assert problem.net.encoder.channels == (8, 16) and problem.net.encoder.stride == 2
    kinds = data.pairs.label[data.pairs.split == False]  # noqa: E712
    assert problem.training.tolist() == np.bincount(kinds).tolist()
    assert problem.knowledge is None and problem.prototypes is None


class Remembering:
    """Makes the same of all pictures, and remembers what it was shown."""

    scale = 3.0

    def __init__(self):
        self.pictures_seen, self.texts_seen = [], []

    def pictures(self, pixels):
        self.pictures_seen.append(pixels)
        return torch.ones(len(pixels), 2)

    def texts(self, strings):
        self.texts_seen += strings
        return torch.eye(2)


def teaching(encoder):
    """A teacher that is this encoder."""
    return Teacher(name="mine", load=lambda config, data, dim: encoder)


def test_a_teacher_of_another_size_is_refused(made):
    with pytest.raises(ConfigError, match=r"model\.dim = 64 is not the size of .* embeddings, 2"):
        made(teaching(Remembering()), method={"name": "clip2fl"})


def test_a_teacher_is_asked_about_the_clients_rows_and_no_others(made):
    teacher = Remembering()
    data, problem = made(teaching(teacher), method={"name": "clip2fl"}, model={"dim": 2})
    assert teacher.texts_seen == ["a picture of cat", "a picture of dog"]
    for silo, pixels in zip(data.silos, teacher.pictures_seen, strict=True):
        assert np.array_equal(pixels, data.pairs.image[silo.pairs])
    rows = np.concatenate([silo.pairs for silo in data.silos])
    assert torch.equal(problem.prototypes, torch.eye(2))
    asked = (problem.knowledge == 3).all(-1)
    assert np.array_equal(np.flatnonzero(asked), np.sort(rows))
    assert (problem.knowledge[~asked] == 0).all()
    noise = problem.noise(6, torch.Generator().manual_seed(0))
    assert noise.knowledge.shape == (6, 2) and problem.take(torch.tensor([3])).knowledge.shape == (
        1,
        2,
    )


def test_an_objective_of_another_task_is_refused(made):
    words = r"objective.name = 'info_nce' is not of task.name = 'image_classification'; expected"
    with pytest.raises(ConfigError, match=words):
        made(objective={"name": "info_nce"})
