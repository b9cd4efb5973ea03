"""OPM hides the dominant modality of some rows from the fusion head."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.objectives.classes.halves import HalvesObjective
from fedsyn.objectives.classes.opm import OPMLoss, OPMOptions

OWN = OPMOptions(base=0.6, slope=0.5, probability=0.7, warmup=0)


@pytest.mark.parametrize("own", [OWN, OWN.changed(base=1.0, slope=1.0)])
def test_a_modulated_batch_by_hand(classified, by_row, own):
    net, _, batch = classified
    draw = torch.Generator().manual_seed(1)
    which = torch.rand(3, 8, generator=draw, dtype=torch.float64)
    whether = torch.tensor([0.1, 0.9, 0.6])  # the second batch is left alone
    found = OPMLoss(0.0, own).modulated(net, batch, whether, which)
    hidden, left_out = {"image": 0, "text": 0}, 0
    for client in range(3):
        views, rows, sums = classified.views(client), [], [0.0, 0.0]
        weight, bias = views["fusion.0.weight"], views["fusion.0.bias"][0]
        for row in range(8):
            label, there = batch.label[client, row], batch.present[client, row]
            if label < 0 or not batch.valid[client, row]:
                continue
            z = [half for half, _ in by_row(views, batch.features[client, row])]
            rows.append((row, label, there, z))
            if there.all():
                for place in range(2):
                    logits = z[place] @ weight[3 * place : 3 * place + 3] + bias / 2
                    sums[place] += float(logits.softmax(-1)[label])
        ratio = sums[0] / sums[1]
        strong = 0 if ratio > 1 else 1
        share = own.base * (1 + own.slope * math.tanh(max(ratio, 1 / ratio) - 1))
        share = min(1.0, share)
        if whether[client] >= 0.7:
            share = 0.0
        losses = []
        for row, label, there, z in rows:
            kept = there.tolist()
            if which[client, row] < share:
                hidden[("image", "text")[strong]] += 1
                kept[strong] = False
            if not any(kept):
                left_out += 1
                continue
            given = [half if has else 0 * half for half, has in zip(z, kept, strict=True)]
            logits = torch.cat(given) / (1 - share / 2) @ weight + bias
            losses.append(cross_entropy(logits, label))
        torch.testing.assert_close(found[client], sum(losses) / len(losses))
    assert min(hidden.values()) > 0 and left_out > 0


@pytest.mark.parametrize(("warmup", "epochs", "begins"), [(0, 1, 1), (5, 2, 4), (4, 2, 3)])
def test_modulation_begins_after_the_warm_up(classified, warmup, epochs, begins):
    net, params, batch = classified
    own = OPMOptions(base=1.0, probability=1.0, warmup=warmup)
    config = Training(batch=8, epochs=epochs)
    plain, clients, step = HalvesObjective(2.0)(net, batch), torch.arange(3), torch.tensor(0)
    for round_number in range(1, 6):
        cohort = Cohort((0, 1, 2), (torch.arange(8).numpy(),) * 3, 0, round_number)
        value = OPMLoss(2.0, own).training(net, cohort, config, "local")(
            params, clients, batch, step
        )
        assert torch.allclose(value, plain) == (round_number < begins)


def test_what_is_hidden_is_the_clients_own(classified):
    net, params, batch = classified
    objective, config = OPMLoss(2.0, OWN), Training(batch=8, epochs=2)
    rows = tuple(torch.arange(size).numpy() for size in (30, 8, 20))
    cohort = Cohort((0, 1, 2), rows, 0, 1)
    together = objective.training(net, cohort, config, "local")
    alone = objective.training(net, cohort.take([2]), config, "local")
    one = classified.of([2], params[2:])
    for step in map(torch.tensor, range(6)):
        expected = together(params, torch.arange(3), batch, step)[2]
        torch.testing.assert_close(alone(params[2:], torch.tensor([0]), one, step)[0], expected)
