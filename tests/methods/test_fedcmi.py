"""FedCMI lets the weak modality learn from the dominant one, and averages by modality."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from fedsyn.core.wire import Sum, Upload
from fedsyn.methods import fedcmi
from fedsyn.methods.base import MethodConfig
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fedcmi import FEDCMI, FedCMIOptions

OWN = FedCMIOptions(infiltration=0.7, slope=2.0, mu=0.3, warmup=1)
SIZES = (12, 15)


class Client:
    """A client's rows, and the mathematics of each."""

    def __init__(self, there, client):
        rows, problem = there.rows(client), there.problem
        self.net, self.modality = problem.net, problem.objective.modality
        self.rows = list(
            zip(problem.features[rows], problem.label[rows], problem.present[rows], strict=True)
        )

    def read(self, w, x):
        """Of one pair by ``w``: any of its linear layers, own and cross projections."""
        views = {name: value[0] for name, value in self.net.layout.views(w[None]).items()}

        def linear(name, value):
            return value @ views[f"{name}.weight"] + views[f"{name}.bias"][0]

        own, cross = [], []
        for name, half in zip(("image", "text"), x.split([3, 2]), strict=True):
            a = linear(f"{name}.backbone.0", half).clamp(min=0)
            own.append(linear(f"{name}.own.0", a))
            if self.net.cross:
                cross.append(linear(f"{name}.cross.0", a))
        return linear, own, cross

    def alone(self, w, x, place):
        """Logits of a modality's classifier of its own projection."""
        linear, own, _ = self.read(w, x)
        return linear(f"{('image', 'text')[place]}.classifier.0", own[place])

    def true(self, w, row, place):
        """The probability of a row's label."""
        x, label, _ = row
        return float(self.alone(w.detach(), x, place).softmax(-1)[label])

    @property
    def whole(self):
        """Labelled rows with both halves."""
        return [row for row in self.rows if row[1] >= 0 and row[2].all()]

    def task(self, w):
        """F_k."""
        fused, alone = [], ([], [])
        for x, label, there in self.rows:
            if label < 0:
                continue
            linear, own, cross = self.read(w, x)
            given = [own[place] if there[place] else cross[1 - place] for place in range(2)]
            fused.append(cross_entropy(linear("fusion.0", torch.cat(given)), label))
            for place in range(2):
                if there[place]:
                    alone[place].append(cross_entropy(self.alone(w, x, place), label))
        means = [sum(losses) / len(losses) for losses in (fused, *alone)]
        return means[0] + self.modality * (means[1] + means[2])

    def ratio(self, w, rows):
        """How much surer images are than texts."""
        image, text = (sum(self.true(w, row, place) for row in rows) for place in range(2))
        return image / text

    def temperatures(self, w, slope):
        """T_c of every class that the client has."""
        classes = {int(label) for _, label, _ in self.whole}
        ratio = {c: self.ratio(w, [row for row in self.whole if row[1] == c]) for c in classes}
        if sum(ratio.values()) / len(ratio) <= 1:
            ratio = {c: 1 / value for c, value in ratio.items()}
        mean = sum(ratio.values()) / len(ratio)
        return {
            c: 1 / (1 + slope * math.log(value / mean)) if value > mean else 1.0
            for c, value in ratio.items()
        }

    def infiltration(self, w, received, slope):
        """L_inf of all rows in one batch."""
        sharp, losses = self.temperatures(received, slope), []
        strong = 0 if self.ratio(w, self.whole) > 1 else 1
        for x, label, _ in self.whole:
            linear, _, cross = self.read(w, x)
            weak = 1 - strong
            student = linear(f"{('image', 'text')[weak]}.classifier.0", cross[weak])
            teacher = self.alone(received, x, strong)
            t = sharp[int(label)]
            losses.append(-((teacher / t).softmax(-1) @ (student / t).log_softmax(-1)))
        return sum(losses) / len(losses)


def sent_model(there, sent):
    return torch.cat([sent[side] for side in there.problem.net.sides(there.model)], -1)


def test_two_steps_by_hand(multimodal, by_hand, plain):
    there, config = multimodal(*SIZES), plain.changed(fedcmi=OWN)
    received = there.model.expand(2, -1)
    sent, _, losses = there.client(FEDCMI, {"model": received}, {}, config, round_number=2)
    strong, sharp = set(), []
    for client in range(2):
        one = Client(there, client)

        def loss(w, one=one):
            return one.task(w) + 0.7 * one.infiltration(w, there.model, OWN.slope)

        def pull(w):
            return 0.3 * (w - there.model)

        middle = by_hand.descend(there.model, loss, config.lr, 1, pull)
        expected = by_hand.descend(middle, loss, config.lr, 1, pull)
        torch.testing.assert_close(sent_model(there, sent)[client], expected)
        mean = (loss(there.model) + loss(middle)) / 2
        torch.testing.assert_close(losses[client], mean.float())
        strong.add(one.ratio(there.model, one.whole) > 1)
        sharp += one.temperatures(there.model, OWN.slope).values()
    assert strong == {True, False} and min(sharp) < 1 == max(sharp)


def test_temperatures_follow_the_classes(multimodal):
    there = multimodal(*SIZES)
    found = fedcmi.temperatures(there.problem, there.model.expand(2, -1), there.cohort(), 2.0)
    for client in range(2):
        expected = Client(there, client).temperatures(there.model, 2.0)
        for c, value in expected.items():
            assert found[client, c].item() == pytest.approx(value)
    assert (
        fedcmi.temperatures(there.problem, there.model.expand(2, -1), there.cohort(), 0.0).tolist()
        == [[1, 1, 1]] * 2
    )


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=3), scale=st.sampled_from([1, 1e4]))
def test_temperatures_are_never_above_one_nor_zero(multimodal, sizes, scale):
    there = multimodal(*sizes)
    models = (scale * there.model).expand(len(sizes), -1)
    found = fedcmi.temperatures(there.problem, models, there.cohort(), 2.0)
    assert ((found > 0) & (found <= 1)).all()
    for client in range(len(sizes)):
        classes = {int(label) for _, label, _ in Client(there, client).whole}
        assert all(found[client, c] == 1 for c in {0, 1, 2} - classes)


def test_before_and_without_infiltration_clients_train_as_under_fedavg(multimodal, plain):
    there = multimodal(9, 0, 4, 1, 7)
    received = {"model": there.model.expand(5, -1)}
    off = FedCMIOptions(infiltration=0.0)
    for number, own in ((1, FedCMIOptions(warmup=1)), (2, off)):
        config = plain.changed(fedcmi=own, batch=4)
        mine, _, _ = there.client(FEDCMI, received, {}, config, round_number=number)
        avg, _, _ = there.client(FEDAVG, received, {}, config, round_number=number)
        assert torch.equal(sent_model(there, mine), avg["model"])


def test_with_one_projector_the_weak_modalitys_own_learns(multimodal, plain):
    there, trained = multimodal(*SIZES, cross=False), []
    received = {"model": there.model.expand(2, -1)}
    for infiltration in (0.0, 5.0):
        own = FedCMIOptions(infiltration=infiltration, warmup=0, projector="own")
        config = plain.changed(fedcmi=own, epochs=1)
        sent, _, _ = there.client(FEDCMI, received, {}, config)
        trained.append(there.problem.net.split(sent_model(there, sent)))
    for client in range(2):
        one = Client(multimodal(*SIZES, cross=False), client)
        image_is_strong = one.ratio(there.model, one.whole) > 1
        for name, strong in (("image", image_is_strong), ("text", not image_is_strong)):
            for module in ("backbone", "own", "classifier"):
                without, with_it = (each[f"{name}.{module}"][client] for each in trained)
                assert torch.equal(without, with_it) == strong


def test_clients_say_which_modalities_they_hold(multimodal, plain):
    there = multimodal(1, 2, 1, 0)  # row 0 lacks its image, row 3 its text
    for weighting, two in (("size", 2.0), ("uniform", 1.0)):
        config = plain.changed(weighting=weighting)
        update = there.update(FEDCMI, {"model": there.model.expand(4, -1)}, {}, config)
        assert {name: one.weight.tolist() for name, one in update.upload.sums.items()} == {
            "image": [0.0, two, 1.0, 0.0],
            "text": [1.0, two, 0.0, 0.0],
            "fusion": [1.0, two, 1.0, 0.0],
        }
        assert set(update.upload.sums) == set(FEDCMI.sends)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("size", [2.5, 4.0, 3.0]), ("uniform", [3.0, 4.0, 10 / 3])],
)
def test_the_server_averages_each_modality_over_those_who_hold_it(
    multimodal, wire, weighting, expected
):
    config, there, sent = MethodConfig(weighting=weighting), multimodal(4), []
    sizes = {s: v.numel() for s, v in there.problem.net.sides(there.model).items()}
    for client, (size, value, has) in enumerate([
        (3, [2.0, 9.0, 2.0], [True, False]),
        (1, [4.0, 4.0, 4.0], [True, True]),
        (2, [9.0, 4.0, 4.0], [False, True]),
        (0, [9.0, 9.0, 9.0], [True, True]),  # has no say
    ]):  # fmt: skip
        one, sums = wire.holding({client: size}), {}
        for (side, number), of, counts in zip(sizes.items(), value, (*has, True), strict=True):
            sums[side] = Sum(torch.full((1, number), of), counts * config.weights(one))
        sent.append((one, Upload(sums)))
    state, uploads = FEDCMI.init(there.problem, there.model, 4), wire.arrive(*sent)
    model = FEDCMI.server(there.problem, state, uploads, config, torch.Generator())["model"]
    for part, one in zip(there.problem.net.sides(model[0]).values(), expected, strict=True):
        torch.testing.assert_close(part, torch.full_like(part, one))


def test_what_nobody_holds_stays(multimodal, plain):
    there = multimodal(3, 4)
    there.problem.present[:, 0] = True
    there.problem.present[:, 1] = False
    config = plain.changed(optimizer="adam", lr=1e-3, batch=4)
    state, _ = there.play(FEDCMI, config, rounds=2)
    before, after = (there.problem.net.sides(m) for m in (there.model, state["model"][0]))
    assert torch.equal(before["text"], after["text"])
    assert not torch.equal(before["image"], after["image"])
    assert not torch.equal(before["fusion"], after["fusion"])
