"""Contributions: clients with what many others have too count for less."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn import streams
from fedsyn.core.wire import Upload
from fedsyn.errors import ConfigError
from fedsyn.federation.config import load
from fedsyn.federation.federation import plan_of
from fedsyn.methods.adaptive import FEDADAM
from fedsyn.methods.contribution import densities, normalised
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fednova import FEDNOVA
from fedsyn.methods.fedprox import FEDPROX
from fedsyn.methods.moon import MOON
from fedsyn.methods.pt_fuch import PT_FUCH
from fedsyn.methods.scaffold import SCAFFOLD
from fedsyn.tasks.vqa import VQA

AVERAGING = FEDAVG, FEDPROX, SCAFFOLD, FEDNOVA, FEDADAM, MOON, PT_FUCH


def contributions(latent, sizes):
    """What clients of these sizes count."""
    return sizes.double() / densities(latent, sizes)


def by_hand(latent, sizes):
    """Client by client."""
    known = [k for k in range(len(sizes)) if sizes[k]]
    apart = {(j, k): np.linalg.norm(latent[j] - latent[k]) for j in known for k in known}
    others = sorted(value for (j, k), value in apart.items() if j != k)
    s = others[(len(others) - 1) // 2]
    return [
        size and size / sum(np.exp(-((apart[j, k] / s) ** 2)) for j in known)
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


def in_chunks(there, own, stack):
    """So many clients at a time, and what each sends."""
    for start in range(0, len(there.sizes), stack):
        part = slice(start, start + stack)
        ids = tuple(range(len(there.sizes)))[part]
        yield there.cohort(ids), Upload(own={name: value[part] for name, value in own.items()})


@pytest.mark.parametrize("method", AVERAGING, ids=[method.name for method in AVERAGING])
def test_the_server_averages_by_contribution(world, wire, plain, method):
    there, ours = world(6, 0, 3, 4), normalised(method)
    config, ids, sizes = plain.changed(weighting="contribution"), (0, 1, 2, 3), there.sizes
    state = ours.init(there.problem, there.model, 4)
    kept = {}
    if ours.client_state is not None:
        kept = ours.client_state(there.problem, there.model)
    kept = {key: value.expand(4, *value.shape) for key, value in kept.items()}
    received = ours.broadcast(state, ids)
    whole = there.update(ours, received, kept, config).upload
    plainly = there.update(method, received, kept, plain).upload
    sent = whole.own
    assert not whole.sums  # the server looks at all of it client by client
    values = {name: one.value for name, one in plainly.sums.items()} | plainly.own
    assert all(torch.equal(sent[key], values[key]) for key in values)
    for client in (0, 2, 3):
        image, text = there.problem.net.embed(there.model[None], there.pairs(client)[None])
        expected = torch.cat([image.mean(1), text.mean(1)], -1)[0]
        torch.testing.assert_close(sent["latent"][client], expected)
    weights = contributions(sent["latent"], torch.tensor(sizes))
    weighed = {
        name: replace(one, weight=weights) if one.weighted else one
        for name, one in plainly.sums.items()
    }
    by_contribution, by_size = (
        method.server(
            there.problem, state, wire.arrive((there.cohort(), upload)), plain,
            streams.generator(0, "aggregate"),
        )
        for upload in (replace(plainly, sums=weighed), plainly)
    )  # fmt: skip
    for stack in (4, 1, 3):
        uploads = wire.arrive(*in_chunks(there, sent, stack))
        stream = streams.generator(0, "aggregate")
        found = ours.server(there.problem, state, uploads, config, stream)
        assert all(torch.equal(found[key], by_contribution[key]) for key in by_contribution)
    assert not torch.equal(found["model"], by_size["model"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=creamfl"], "those of method.name = 'creamfl' receive none"),
        (["method=ccl"], "both halves; task.name = 'representation' has none"),
        (["task=representation"], "both halves; task.name = 'representation' has none"),
    ],
)
def test_what_has_no_representations_to_compare_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(None, [*overrides, "method.weighting=contribution"])


def test_it_is_asked_for_by_the_weighting():
    marked = replace(FEDAVG, name="marked", tasks=(VQA,))
    assert plan_of(load(None, ["task=vqa"], method=marked)).method is marked
    config = load(None, ["task=vqa", "method.weighting=contribution"], method=marked)
    found = plan_of(config).method
    assert found.tasks == (VQA,) and found.server is not marked.server
