"""Contributions: clients with what many others have too count for less."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn import streams
from fedsyn.config import load
from fedsyn.errors import ConfigError
from fedsyn.federation.federation import method_of
from fedsyn.methods import METHODS
from fedsyn.methods.contribution import contributions, normalised

AVERAGING = ("fedavg", "fedprox", "scaffold", "fednova", "fedadam", "moon", "pt_fuch")


def by_hand(latent, sizes):
    """Client by client."""
    heard = [k for k in range(len(sizes)) if sizes[k]]
    apart = {(j, k): np.linalg.norm(latent[j] - latent[k]) for j in heard for k in heard}
    others = sorted(value for (j, k), value in apart.items() if j != k)
    s = others[(len(others) - 1) // 2]
    return [
        size and size / sum(np.exp(-((apart[j, k] / s) ** 2)) for j in heard)
        for k, size in enumerate(sizes)
    ]


def test_weights_by_hand():
    latent = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0], [3.0, 4.0]])
    sizes = torch.tensor([4, 2, 0, 5])
    expected = by_hand(latent.numpy(), sizes.tolist())
    assert contributions(latent, sizes).tolist() == pytest.approx(expected)


def test_a_client_that_has_what_others_have_counts_for_less():
    latent = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1.0], [-1.0]])
    found = contributions(latent, torch.ones(6)).tolist()
    assert found[:4] == [found[0]] * 4 and found[0] < found[4] == found[5]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_clients_that_cannot_be_told_apart_count_by_size(sizes):
    latent = torch.ones(len(sizes), 3)
    assert contributions(latent, torch.tensor(sizes)).tolist() == sizes


def heard_by(method, sent, ids, sizes, config, stack):
    heard = {}
    for start in range(0, len(ids), stack):
        part = slice(start, start + stack)
        chunk = {name: value[part] for name, value in sent.items()}
        more = method.hear({}, ids[part], chunk, sizes[part], config)
        heard = method.merge(heard, more)
    return heard


@pytest.mark.parametrize("name", AVERAGING)
def test_the_server_averages_by_contribution(world, plain, name):
    there, method = world(6, 0, 3, 4), normalised(METHODS[name])
    ids, sizes = (0, 1, 2, 3), torch.tensor(there.sizes)
    state = method.init(there.problem, there.model, 4)
    kept = {} if method.keep is None else method.keep(there.problem, there.model)
    kept = {key: value.expand(4, *value.shape) for key, value in kept.items()}
    payload, cohort = method.down(state, ids), there.cohort()
    sent, _, _ = method.client(there.problem, payload, kept, cohort, plain)
    plainly, _, _ = METHODS[name].client(there.problem, payload, kept, cohort, plain)
    assert all(torch.equal(sent[key], plainly[key]) for key in plainly)
    for client in (0, 2, 3):
        image, text = there.problem.net.embed(there.model[None], there.pairs(client)[None])
        expected = torch.cat([image.mean(1), text.mean(1)], -1)[0]
        torch.testing.assert_close(sent["latent"][client], expected)
    weights = contributions(sent["latent"], sizes)
    sums = METHODS[name].hear({}, ids, plainly, weights, plain)
    draw = lambda: streams.generator(0, "aggregate")  # noqa: E731
    expected = METHODS[name].server(there.problem, state, sums, plain, draw())
    for stack in (4, 1, 3):
        heard = heard_by(method, sent, ids, sizes, plain, stack)
        found = method.server(there.problem, state, heard, plain, draw())
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    by_size = METHODS[name].hear({}, ids, plainly, sizes, plain)
    other = METHODS[name].server(there.problem, state, by_size, plain, draw())
    assert not torch.equal(found["model"], other["model"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=creamfl"], "those of method.name = 'creamfl' receive none"),
        (["method=ccl"], "'ccl' cannot learn task.name = 'representation'"),
        (["task=representation"], "'fedavg' cannot .* expected one of 'retrieval', 'vqa'"),
    ],
)
def test_what_has_no_representations_to_compare_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        method_of(load(None, [*words, "method.weighting=contribution"]))


def test_it_is_asked_for_by_the_weighting(monkeypatch):
    marked = replace(METHODS["fedavg"], tasks=("vqa",))
    monkeypatch.setitem(METHODS, "fedavg", marked)
    assert method_of(load(None, ["task=vqa"])) is marked
    found = method_of(load(None, ["task=vqa", "method.weighting=contribution"]))
    assert found.tasks == ("vqa",) and found.server is not marked.server
