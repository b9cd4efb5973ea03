"""Attacks on models: cosine, log-odds and the likelihood ratio, by their formulas."""

import torch
from torch.nn.functional import normalize

from fedsyn.privacy.likelihood import cosine, log_odds, offline_ratio


def embedded(seed):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(7, 4, generator=draw, dtype=torch.float64), dim=-1)


def test_log_odds_are_those_of_the_partner_among_all():
    image, text = embedded(0), embedded(1)
    probability = [
        (a @ b.T / 0.3).softmax(-1).diagonal() for a, b in ((image, text), (text, image))
    ]
    expected = sum(torch.logit(p) for p in probability) / 2
    assert torch.allclose(log_odds(image, text, 0.3), expected)
    assert torch.allclose(cosine(image, text), (image @ text.T).diagonal())


def test_the_ratio_is_to_models_that_have_not_seen_the_pair():
    shadows = torch.tensor([[1.0, 9.0], [3.0, 2.0], [9.0, 4.0], [9.0, 9.0]])
    seen = torch.tensor([[False, True], [False, False], [True, False], [True, True]])
    # Means 2 and 3; squares (1 + 1) + (1 + 1) over 4 − 2 degrees of freedom.
    found = offline_ratio(torch.tensor([4.0, 0.0]), shadows, seen)
    assert torch.allclose(found, torch.tensor([2.0, -3.0]).double() / 2**0.5)
