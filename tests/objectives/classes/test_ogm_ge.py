"""OGM-GE scales the gradient of the dominant modality's encoder, and adds noise to both."""

import math

import pytest
import torch

from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.objectives.classes.halves import HalvesObjective
from fedsyn.objectives.classes.ogm_ge import OGMGELoss, OGMGEOptions

CONFIG, STEP = Training(batch=8), torch.tensor(0)
COHORT = Cohort((0, 1, 2), (torch.arange(8).numpy(),) * 3, seed=0, round_number=1)


def gradient(classified, objective, cohort=COHORT, rows=(0, 1, 2)):
    """Of the loss that clients minimise, as named views; only of some of the cohort's clients."""
    here = list(rows)
    params = classified.params[here].clone().requires_grad_()
    batch = classified.of(here, params)
    loss = objective.training(classified.net, cohort, CONFIG, "local")
    value = loss(params, torch.tensor(here), batch, STEP)
    (flat,) = torch.autograd.grad(value.sum(), params)
    return classified.net.layout.views(flat)


def dominance(classified, by_row, client):
    """ρ of the image: by its half of the fusion head, over rows with both halves."""
    views, batch, sums = classified.views(client), classified.batch, [0.0, 0.0]
    for row in range(8):
        label = batch.label[client, row]
        if label < 0 or not batch.valid[client, row] or not batch.present[client, row].all():
            continue
        halves = by_row(views, batch.features[client, row])
        for place, (z, _) in enumerate(halves):
            weight = views["fusion.0.weight"][3 * place : 3 * place + 3]
            logits = z @ weight + views["fusion.0.bias"][0] / 2
            sums[place] += float(logits.softmax(-1)[label])
    return sums[0] / sums[1]


def encoders(name):
    return [f"{name}.{module}" for module in ("backbone", "own")]


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_the_dominant_encoders_gradient_is_scaled(classified, by_row, alpha):
    plain = gradient(classified, HalvesObjective(2.0))
    found = gradient(classified, OGMGELoss(2.0, OGMGEOptions(alpha=alpha, noise=False)))
    dominant = set()
    for client in range(3):
        ratio = dominance(classified, by_row, client)
        strong = "image" if ratio > 1 else "text"
        dominant.add(strong)
        factor = 1 - math.tanh(alpha * max(ratio, 1 / ratio))
        for name, expected in plain.items():
            scale = factor if name.startswith(tuple(encoders(strong))) else 1.0
            torch.testing.assert_close(found[name][client], scale * expected[client])
    assert dominant == {"image", "text"}


def test_noise_is_as_wide_as_the_gradient_and_only_of_encoders(classified):
    quiet = gradient(classified, OGMGELoss(2.0, OGMGEOptions(noise=False)))
    plain = gradient(classified, HalvesObjective(2.0))
    objective, units = OGMGELoss(2.0, OGMGEOptions()), []
    for round_number in range(200):
        cohort = Cohort(COHORT.ids, COHORT.rows, 0, round_number)
        for name, value in gradient(classified, objective, cohort).items():
            noise = value - quiet[name]
            if name.startswith((*encoders("image"), *encoders("text"))):
                spread = plain[name].flatten(1).std(1, correction=0)
                units.append((noise.flatten(1) / spread[:, None]).flatten())
            else:
                assert not noise.any()
    drawn = torch.cat(units)
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 1) < 0.02


def test_noise_is_the_clients_own(classified):
    objective = OGMGELoss(2.0, OGMGEOptions())
    together = gradient(classified, objective)
    alone = gradient(classified, objective, rows=(2,))
    fewer = gradient(classified, objective, rows=(1, 2))
    for name, value in together.items():
        torch.testing.assert_close(alone[name][0], value[2])
        torch.testing.assert_close(fewer[name], value[1:])


def test_without_whole_pairs_nothing_is_dominant(classified):
    batch = classified.batch
    halves = batch.present.clone()
    halves[..., 0] = False
    one = classified._replace(batch=batch._replace(present=halves))
    plain = gradient(one, HalvesObjective(2.0))
    found = gradient(one, OGMGELoss(2.0, OGMGEOptions(noise=False)))
    for name, value in plain.items():
        assert torch.equal(found[name], value)
