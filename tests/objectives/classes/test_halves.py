"""Cross-entropy of pairs by both halves and by each alone."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsyn.objectives.classes.halves import HalvesObjective


def mean(losses):
    return sum(losses) / len(losses)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_each_term_is_the_mean_over_its_own_rows(classified, by_row, weight):
    batch = classified.batch
    found = HalvesObjective(weight)(classified.net, batch)
    for client in range(3):
        views, fused, alone = classified.views(client), [], ([], [])
        for row in range(8):
            label = batch.label[client, row]
            if label < 0 or not batch.valid[client, row]:
                continue
            halves = by_row(views, batch.features[client, row])
            there = batch.present[client, row]
            z = [half if has else 0 * half for (half, _), has in zip(halves, there, strict=True)]
            logits = torch.cat(z) @ views["fusion.0.weight"] + views["fusion.0.bias"][0]
            fused.append(cross_entropy(logits, label))
            for losses, (_, own), has in zip(alone, halves, there, strict=True):
                if has:
                    losses.append(cross_entropy(own, label))
        expected = mean(fused) + weight * (mean(alone[0]) + mean(alone[1]))
        torch.testing.assert_close(found[client], expected)


def test_what_is_missing_or_takes_no_part_leaves_no_trace(classified):
    net, params, batch = classified
    features = batch.features.clone()
    features[:, 0, :3] += 1  # no image
    features[:, 1, 3:] += 1  # no text
    features[:, 2] += 1  # no label
    features[0, 5:] += 1  # padding
    other = batch._replace(reading=net.read(params, features, batch.present))
    assert torch.equal(HalvesObjective(2.0)(net, other), HalvesObjective(2.0)(net, batch))


def test_clients_with_nothing_to_learn_from_have_no_loss(classified):
    net, _, batch = classified
    empty = batch._replace(label=torch.full_like(batch.label, -1))
    assert HalvesObjective(2.0)(net, empty).tolist() == [0, 0, 0]
