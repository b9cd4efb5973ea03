"""Copies among samples: exact ones, near ones, and what nearness is worth."""

import torch

from fedsyn.privacy.copies import copies


def drawn(count, seed):
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def test_samples_that_are_members_are_copies():
    members, strangers = drawn(60, 0), drawn(30, 1)
    half = torch.cat([members[:20], drawn(20, 2) + 50])
    found = copies(half, members, strangers)
    assert (found.samples, found.exact, found.near) == (40, 0.5, 0.5)
    assert found.near_strangers == 0


def test_fresh_pairs_are_as_near_to_strangers_as_to_members():
    found = copies(drawn(4000, 3), drawn(300, 4), drawn(100, 5))
    assert found.exact == 0
    assert 0 < found.near_as_many < found.near
    assert abs(found.near_as_many - found.near_strangers) < 0.05


def test_pairs_that_are_all_alike():
    same = torch.ones(12, 8)
    found = copies(same, same, drawn(5, 0))
    assert found.exact == 1 and found.near == 0
