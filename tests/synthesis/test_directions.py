"""Directions of all clients from sums, whole and sketched, and a client's own."""

import pytest
import torch

from fedsyn.core.wire import Intake, Library, Sum, Upload, send
from fedsyn.synthesis.directions import (
    own_basis,
    pooled_basis,
    scatter,
    sketched,
    with_basis,
)

SEED = 3


def residuals(sizes, width, rank):
    stream = torch.Generator().manual_seed(0)
    mix = torch.randn(rank, width, generator=stream, dtype=torch.float64)
    return [torch.randn(n, rank, generator=stream, dtype=torch.float64) @ mix for n in sizes]


def uploads(parts, rank, freedom=lambda rows: len(rows) - 1):
    intake = Intake({})
    for client, rows in enumerate(parts):
        value = scatter(rows, freedom(rows), rank, SEED)[None]
        weight = torch.tensor([float(max(freedom(rows), 0))], dtype=torch.float64)
        upload = Upload(
            {"scatter": Sum(value, weight, weighted=False)}, once=frozenset(["scatter"])
        )
        intake.take((client,), send(upload, torch.tensor([True])))
    return intake.uploads()


@pytest.mark.parametrize(("width", "rank"), [(6, 4), (6, 9), (60, 5), (300, 8)])
def test_pooled_directions_have_the_covariance_of_all_clients_within_clusters(width, rank):
    parts = residuals((30, 1, 0, 17), width, min(rank, 5))
    found = pooled_basis(uploads(parts, rank), {}, width, rank, SEED)
    freedom = 29 + 16
    expected = sum(rows.T @ rows for rows in parts if len(rows) > 1) / freedom
    assert found["basis"].shape == (rank, width)
    assert float(found["freedom"]) == freedom
    basis = found["basis"].double()
    torch.testing.assert_close(basis.T @ basis, expected, atol=1e-4, rtol=1e-4)


def test_both_forms_are_tried():
    assert not sketched(6, 4)
    assert sketched(300, 8)


def test_a_client_alone_sends_what_it_adds_and_not_what_spans_its_pairs():
    (rows,) = residuals((4,), 6, 6)
    assert scatter(rows, 3, 4, SEED).shape == (21,)
    assert not scatter(rows, 0, 4, SEED).any()


def test_directions_are_found_anew_only_when_somebody_has_sent_some():
    parts = residuals((9, 8), 6, 3)
    first = pooled_basis(uploads(parts[:1], 4), {}, 6, 4, SEED)
    again = pooled_basis(uploads(parts[:1], 4), first, 6, 4, SEED)
    assert again["basis"] is first["basis"]
    more = pooled_basis(uploads(parts, 4), first, 6, 4, SEED)
    assert not torch.equal(more["basis"], first["basis"])
    assert pooled_basis(Intake({}).uploads(), {}, 6, 4, SEED) == {}


def test_directions_without_a_rank_are_zero():
    rows = torch.zeros(5, 300, dtype=torch.float64)
    found = pooled_basis(uploads([rows], 8), {}, 300, 8, SEED)
    assert not found["basis"].any()


def test_a_library_reads_as_if_every_client_had_sent_the_pooled_directions():
    taken = []

    def take(ids, names):
        taken.append(tuple(names))
        return {name: torch.ones(len(ids), 2) for name in names or ("counts", "prototypes")}

    basis = torch.randn(3, 4)
    library = with_basis(Library((5, 7), take), basis)
    assert library.take((7,), ()).keys() == {"counts", "prototypes", "basis"}
    assert torch.equal(library.take((5, 7), ("basis",))["basis"], basis.expand(2, -1, -1))
    assert library.take((5,), ("counts", "basis")).keys() == {"counts", "basis"}
    assert taken == [(), ("counts",)]


def test_own_directions_span_a_client_s_pairs():
    (rows,) = residuals((4,), 9, 9)
    basis = own_basis(rows - rows.mean(0), 3, 6)
    kept = basis[:3]
    projected = (rows - rows.mean(0)) @ torch.linalg.pinv(kept) @ kept
    torch.testing.assert_close(projected, rows - rows.mean(0))
    assert not basis[3:].any()
