"""MFCPL learns from class prototypes of the rows with both halves."""

import pytest
import torch

from fedsyn.core.wire import Upload
from fedsyn.methods import mfcpl
from fedsyn.methods.base import MethodConfig, present
from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.mfcpl import MFCPL, MFCPLOptions

OWN = MFCPLOptions(regularisation=0.5, contrast=0.7, alignment=0.3, temperature=0.4)
SIZES = (12, 9)


def prototypes(seed=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, 3, 3, generator=draw, dtype=torch.float64)


def batch_of(there, client, params):
    rows = torch.from_numpy(there.rows(client))[None]
    return there.problem.batch(params[None], rows, torch.ones_like(rows, dtype=torch.bool))


def terms(batch, p, known):
    """CMPR, CMPC and CMA of one client, row by row."""
    shared, specific, aligned = ([[], []] for _ in range(3))
    own, cross = ([half[0] for half in both] for both in (batch.reading.own, batch.reading.cross))
    for row, (label, has) in enumerate(zip(batch.label[0], batch.present[0], strict=True)):
        for u in (0, 1):
            if label < 0 or not has[u]:
                continue
            if has.all():
                aligned[u].append((cross[u][row] - own[1 - u][row]).square().sum() / 3)
            if not known[label]:
                continue
            shared[u].append((cross[u][row] - p[1 - u, label]).square().sum() / 3)
            z = own[u][row]
            near = {
                c: (z @ p[u, c] / (z.norm() * p[u, c].norm()) / 0.4).exp()
                for c in range(3)
                if known[c]
            }
            specific[u].append(-(near[int(label)] / sum(near.values())).log())
    return [
        sum(sum(each) / len(each) for each in both if each) for both in (shared, specific, aligned)
    ]


@pytest.mark.parametrize("known", [[True, True, True], [True, False, True], [False] * 3])
def test_a_step_by_hand(multimodal, by_hand, plain, known):
    there, p = multimodal(*SIZES), prototypes()
    config = plain.changed(mfcpl=OWN, epochs=1)
    has = torch.tensor([known])
    received = {"model": there.model[None], "prototypes": p, "known": has}
    received = {name: v.expand(2, *v.shape[1:]) for name, v in received.items()}
    sent, _, losses = there.client(MFCPL, received, {}, config)
    for client in range(2):

        def loss(w, client=client):
            batch = batch_of(there, client, w)
            cmpr, cmpc, cma = terms(batch, p[0], has[0])
            task = there.problem.objective(there.problem.net, batch)[0]
            return task + 0.5 * cmpr + 0.7 * cmpc + 0.3 * cma

        torch.testing.assert_close(losses[client], loss(there.model).float())
        expected = by_hand.descend(there.model, loss, config.lr, steps=1)
        torch.testing.assert_close(sent["model"][client], expected)


def test_clients_send_sums_of_their_whole_rows(multimodal, plain):
    there = multimodal(*SIZES, 0)
    state = MFCPL.init(there.problem, there.model, 3)
    sent, _, _ = there.client(MFCPL, MFCPL.broadcast(state, (0, 1, 2)), {}, plain)
    for client in range(2):
        batch = batch_of(there, client, sent["model"][client])
        whole = batch.present[0].all(-1)
        for c in range(3):
            mine = whole & (batch.label[0] == c)
            assert sent["rows"][client, c] == mine.sum() > 0
            for u in (0, 1):
                torch.testing.assert_close(
                    sent["sums"][client, u, c], batch.reading.own[u][0][mine].sum(0)
                )
    assert not sent["rows"][2].any() and not sent["sums"][2].any()


def test_the_servers_prototypes_are_means_over_rows_and_stay_where_there_are_none(multimodal, wire):
    there, config = multimodal(4), MethodConfig()
    state = MFCPL.init(there.problem, there.model, 2)
    assert not state["known"].any()
    for rows, expected, known in [
        ([[3.0, 0.0, 1.0], [1.0, 0.0, 0.0]], [10 / 4, 0.0, 5.0], [True, False, True]),
        ([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], [10 / 4, 5 / 2, 5.0], [True, True, True]),
    ]:
        sent = []
        for client in range(2):
            row = torch.tensor([rows[client]])
            sums = 5 * (row > 0).double()[:, None, :, None].expand(1, 2, 3, 3)
            one = wire.holding({client: 2})
            upload = config.weighted(one, model=there.model[None])
            sent.append((one, Upload(upload | present(one, sums=sums, rows=row))))
        uploads = wire.arrive(*sent)
        state = MFCPL.server(there.problem, state, uploads, config, torch.Generator())
        assert state["known"].tolist() == [known]
        for c, value in enumerate(expected):
            assert torch.equal(state["prototypes"][0, :, c], torch.full((2, 3), value).double())
        assert torch.equal(state["model"][0], there.model)
        assert MFCPL.broadcast(state, (3, 5))["prototypes"].shape == (2, 2, 3, 3)


def test_without_its_terms_it_is_fedavg(multimodal, plain):
    there = multimodal(9, 0, 4, 1, 7)
    nothing = MFCPLOptions(regularisation=0, contrast=0, alignment=0)
    config = plain.changed(mfcpl=nothing, batch=4)
    mine, avg = (there.play(method, config)[0]["model"] for method in (MFCPL, FEDAVG))
    torch.testing.assert_close(mine, avg)


@pytest.mark.parametrize("known", [[False, False, False], [True, False, True]])
def test_a_class_without_a_prototype_gives_finite_gradients(multimodal, known):
    there = multimodal(6)
    penalty = mfcpl.regulariser(prototypes(), torch.tensor([known]), OWN)
    batch = batch_of(there, 0, there.model.requires_grad_())
    (slope,) = torch.autograd.grad(penalty(torch.tensor([0]), batch).sum(), there.model)
    assert slope.isfinite().all()
