"""A tiny problem in float64, rounds of it, and the same mathematics written out pair by pair."""

from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import pytest
import torch

from fedsyn import streams
from fedsyn.core.cohort import Cohort, chunks
from fedsyn.core.wire import Intake, send
from fedsyn.data.augment import AugmentConfig
from fedsyn.methods import METHODS
from fedsyn.methods.base import MethodConfig
from fedsyn.methods.clip2fl.matching import CReFFOptions
from fedsyn.methods.feddm import FedDMOptions
from fedsyn.methods.fedmac.network import MissingAwareNet
from fedsyn.models import representation
from fedsyn.models.fusion import FusionNet
from fedsyn.models.mlp import MLP
from fedsyn.models.picture_classifier import PictureClassifier
from fedsyn.models.resnet import ResNet
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.models.settings import ModelConfig
from fedsyn.objectives.classes.halves import HalvesObjective
from fedsyn.objectives.classes.losses import cross_entropy
from fedsyn.objectives.pairs.info_nce import InfoNCELoss
from fedsyn.objectives.views.moco import MoCoObjective
from fedsyn.settings.plugins import composed
from fedsyn.tasks.base import Problem
from fedsyn.tasks.image_classification import ImageClassificationProblem
from fedsyn.tasks.multimodal_classification import MultimodalProblem
from fedsyn.tasks.representation import RepresentationProblem
from fedsyn.tasks.retrieval import RetrievalProblem

TEMPERATURE = 0.5
IMAGE, TEXT = (3, 4, 3), (2, 4, 3)
STILL = AugmentConfig(crop=1, brightness=0, contrast=0, saturation=0, grey=0)


def embedded(w, pair):
    """The two embeddings of one pair by the flat model ``w``."""
    both, place, column = [], 0, 0
    for widths in (IMAGE, TEXT):
        x = pair[column : column + widths[0]]
        column += widths[0]
        for layer in range(2):
            fan_in, fan_out = widths[layer], widths[layer + 1]
            weight = w[place : place + fan_in * fan_out].reshape(fan_in, fan_out)
            bias = w[place + fan_in * fan_out : place + (fan_in + 1) * fan_out]
            place += (fan_in + 1) * fan_out
            x = x @ weight + bias
            if layer == 0:
                x = torch.where(x > 0, x, 0)
        both.append(x / x.square().sum().sqrt())
    return both


def info_nce(w, pairs):
    """The objective of all pairs in one batch."""
    image, text = zip(*(embedded(w, pair) for pair in pairs), strict=True)
    loss = 0
    for i in range(len(pairs)):
        by_image = torch.stack([image[i] @ t for t in text]) / TEMPERATURE
        by_text = torch.stack([text[i] @ v for v in image]) / TEMPERATURE
        loss = loss + by_image.exp().sum().log() - by_image[i]
        loss = loss + by_text.exp().sum().log() - by_text[i]
    return loss / (2 * len(pairs))


def gradient(loss, w):
    """Of ``loss(w)``."""
    leaf = w.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf)
    return slope


def descend(w, loss, lr, steps, extra=lambda w: 0):
    """``w`` after steps of plain descent on ``loss``, with ``extra`` added to its gradient."""
    for _ in range(steps):
        w = w - lr * (gradient(loss, w) + extra(w))
    return w


@dataclass(frozen=True)
class World:
    """Clients that hold ``sizes`` rows each."""

    problem: Problem
    model: torch.Tensor  # [P]
    sizes: tuple[int, ...]

    def rows(self, client):
        """Rows of a client's pairs."""
        start = sum(self.sizes[:client])
        return np.arange(start, start + self.sizes[client])

    def pairs(self, client):
        """The pairs themselves."""
        return self.problem.features[self.rows(client)]

    def cohort(self, ids=None, round_number=1):
        """These clients, by default all, in a round."""
        ids = tuple(range(len(self.sizes))) if ids is None else tuple(ids)
        return Cohort(ids, tuple(self.rows(client) for client in ids), 0, round_number)

    def single(self):
        """The same in float32."""
        values = {each.name: getattr(self.problem, each.name) for each in fields(self.problem)}
        double = {k: v for k, v in values.items() if getattr(v, "dtype", None) == torch.float64}
        problem = replace(self.problem, **{name: v.float() for name, v in double.items()})
        return World(problem, self.model.float(), self.sizes)

    def update(self, method, received, state, config, ids=None, round_number=1):
        """What these clients do."""
        cohort = self.cohort(ids, round_number)
        return method.client(self.problem, received, state, cohort, config)

    def client(self, method, received, state, config, ids=None, round_number=1):
        """What each of these clients sends, by name, and keeps, and its loss."""
        update = self.update(method, received, state, config, ids, round_number)
        sums = {name: one.value for name, one in update.upload.sums.items()}
        return sums | update.upload.own, update.state, update.losses

    def play(self, method, config, rounds=2, stack=5, sampled=lambda round_number, client: True):
        """The server's state, and what clients have kept, after some rounds."""
        state, kept, totals = method.init(self.problem, self.model, len(self.sizes)), {}, {}
        begin = {}
        if method.client_state is not None:
            begin = method.client_state(self.problem, self.model)
        for number in range(1, rounds + 1):
            ids = [client for client in range(len(self.sizes)) if sampled(number, client)]
            intake = Intake(totals)
            for chunk in chunks(self.cohort(ids, number), stack):
                mine = [kept.get(client, begin) for client in chunk.ids]
                stacked = {key: torch.stack([m[key] for m in mine]) for key in begin}
                received = method.broadcast(state, chunk.ids)
                update = method.client(self.problem, received, stacked, chunk, config)
                new = torch.tensor([client not in kept for client in chunk.ids])
                for place, client in enumerate(chunk.ids):
                    kept[client] = {key: value[place] for key, value in update.state.items()}
                intake.take(chunk.ids, send(update.upload, new))
            generator = streams.generator(0, "aggregate", number)
            state = method.server(self.problem, state, intake.uploads(), config, generator)
        return state, kept


def arrive(*sent):
    """What the server reads of chunks of clients, each a cohort and its first upload."""
    intake = Intake({})
    for cohort, upload in sent:
        intake.take(cohort.ids, send(upload, torch.ones(len(cohort.ids), dtype=torch.bool)))
    return intake.uploads()


def holding(sizes):
    """Clients that hold so many rows, by id."""
    return Cohort(tuple(sizes), tuple(np.arange(size) for size in sizes.values()), 0, 1)


def build(*sizes):
    """A world of clients that hold so many pairs."""
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(max(sum(sizes), 1), 5, generator=draw, dtype=torch.float64)
    net = RetrievalNet(MLP("image", IMAGE), MLP("text", TEXT), 0)
    model = net.init(draw).double()
    objective = InfoNCELoss(TEMPERATURE)
    problem = RetrievalProblem(features=features, net=net, objective=objective, criterion=objective)
    return World(problem, model, sizes)


def build_pictures(*sizes):
    """A world of clients that hold so many pictures of 4 x 4 pixels, without augmentation."""
    draw = torch.Generator().manual_seed(1)
    features = 2 * torch.rand(max(sum(sizes), 1), 16, generator=draw, dtype=torch.float64) - 1
    net = representation.build(
        ModelConfig(channels=(8,), hidden=(6,), dim=4), (4, 4, 1), predicts=False
    )
    objective = MoCoObjective(TEMPERATURE, momentum=0.9, queue=16)
    problem = RepresentationProblem(
        features=features, net=net, objective=objective, criterion=objective, augment=STILL
    )
    return World(problem, net.init(draw).double(), sizes)


def build_labelled(*sizes):
    """A world of clients that hold so many pictures of three classes, with a teacher."""
    draw = torch.Generator().manual_seed(1)
    rows = max(sum(sizes), 1)
    net = PictureClassifier(ResNet("encoder", (4, 4, 1), (8,)), dim=3, classes=3)
    problem = ImageClassificationProblem(
        features=2 * torch.rand(rows, 16, generator=draw, dtype=torch.float64) - 1,
        net=net,
        label=torch.randint(3, (rows,), generator=draw),
        objective=cross_entropy,
        augment=STILL,
        knowledge=3 * torch.randn(rows, 3, generator=draw, dtype=torch.float64),
        prototypes=torch.eye(3, dtype=torch.float64),
    )
    return World(problem, net.init(draw).double(), sizes)


def build_multimodal(*sizes, kind=FusionNet, cross=True):
    """A world of clients that hold so many labelled pairs, in which some rows lack a half."""
    draw = torch.Generator().manual_seed(1)
    rows = max(sum(sizes), 1)
    present = torch.ones(rows, 2, dtype=torch.bool)
    present[::5, 0] = present[3::5, 1] = False
    net = kind(image=3, text=2, hidden=(4,), dim=3, classes=3, cross=cross)
    problem = MultimodalProblem(
        features=torch.randn(rows, 5, generator=draw, dtype=torch.float64),
        net=net,
        label=torch.arange(rows) % 4 - 1,
        present=present,
        objective=HalvesObjective(modality=2.0),
    )
    return World(problem, net.init(draw).double(), sizes)


def build_mixed(*sizes):
    """A world of clients that hold so many pairs, pictures or texts in turn, and 6 public pairs."""
    there, rows, draw = build(*sizes), sum(sizes), torch.Generator().manual_seed(2)
    public = torch.randn(6, 5, generator=draw, dtype=torch.float64)
    present = torch.ones(rows + 6, 2, dtype=torch.bool)
    for client in range(len(sizes)):
        mine = present[there.rows(client)]
        mine[:, 1], mine[:, 0] = client % 3 != 1, client % 3 != 2
        present[there.rows(client)] = mine
    problem = replace(
        there.problem,
        features=torch.cat([there.problem.features[:rows], public]),
        variants=(there.problem.net,),
        present=present,
        category=torch.randint(3, (rows + 6,), generator=draw),
        classes=3,
        public=torch.arange(rows, rows + 6),
    )
    return World(problem, there.model, sizes)


WORLDS = {
    "creamfl": build_mixed,
    "fedmac": partial(build_multimodal, kind=MissingAwareNet),
    "retrieval": build,
    "representation": build_pictures,
    "image_classification": build_labelled,
    "multimodal_classification": build_multimodal,
}


@pytest.fixture(scope="session")
def world():
    """``world(5, 0, 3)``: clients that hold so many pairs."""
    return build


@pytest.fixture(scope="session")
def pictures():
    """``pictures(5, 0, 3)``: clients that hold so many pictures."""
    return build_pictures


@pytest.fixture(scope="session")
def labelled():
    """``labelled(5, 0, 3)``: clients that hold so many pictures with labels."""
    return build_labelled


@pytest.fixture(scope="session")
def multimodal():
    """``multimodal(5, 0, 3)``: clients that hold so many labelled pairs."""
    return build_multimodal


@pytest.fixture(scope="session")
def mixed():
    """``mixed(5, 0, 3)``: clients that hold so many pairs, pictures or texts in turn."""
    return build_mixed


@pytest.fixture(scope="session")
def world_of():
    """``world_of(method)(5, 0, 3)``: clients with so many rows that the method can learn from."""

    def found(method):
        task = method.tasks[0].name if method.tasks else "retrieval"
        return WORLDS.get(method.name) or WORLDS[task]

    return found


@pytest.fixture(scope="session")
def by_hand():
    """The mathematics, pair by pair."""

    class ByHand:
        embedded = staticmethod(embedded)
        info_nce = staticmethod(info_nce)
        gradient = staticmethod(gradient)
        descend = staticmethod(descend)

    return ByHand


@pytest.fixture(scope="session")
def wire():
    """What lies between clients and the server.

    ``wire.holding({3: 5, 4: 0})`` are clients, by id, that hold so many rows;
    ``wire.arrive((cohort, upload), ...)`` is what the server reads of what they send.
    """

    class Wire:
        arrive = staticmethod(arrive)
        holding = staticmethod(holding)

    return Wire


@pytest.fixture(scope="session")
def plain():
    """Full batches, so that steps do not depend on the order of pairs, and plain descent."""
    few = CReFFOptions(repeats=2, draw=4, features=5, steps=3, classifier_epochs=2)
    small = FedDMOptions(pictures=2, steps=2, draw=3)
    section = composed(MethodConfig, METHODS)
    return section(optimizer="sgd", lr=0.3, epochs=2, batch=16, creff=few, feddm=small)
