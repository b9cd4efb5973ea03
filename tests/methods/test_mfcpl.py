"""MFCPL learns from class prototypes of the rows with both halves."""

import pytest
import torch

from fedsyn.config import MethodConfig, MFCPLConfig
from fedsyn.methods import METHODS, mfcpl

OWN = MFCPLConfig(regularisation=0.5, contrast=0.7, alignment=0.3, temperature=0.4)
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
    config = plain.model_copy(update={"mfcpl": OWN, "epochs": 1})
    has = torch.tensor([known])
    payload = {"model": there.model[None], "prototypes": p, "known": has}
    payload = {name: v.expand(2, *v.shape[1:]) for name, v in payload.items()}
    sent, _, losses = there.client("mfcpl", payload, {}, config)
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
    state = METHODS["mfcpl"].init(there.problem, there.model, 3)
    sent, _, _ = there.client("mfcpl", mfcpl.down(state, (0, 1, 2)), {}, plain)
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


def test_the_servers_prototypes_are_means_over_rows_and_stay_where_there_are_none(multimodal):
    method, there, config = METHODS["mfcpl"], multimodal(4), MethodConfig()
    state = method.init(there.problem, there.model, 2)
    assert not state["known"].any()
    for rows, expected, known in [
        ([[3.0, 0.0, 1.0], [1.0, 0.0, 0.0]], [10 / 4, 0.0, 5.0], [True, False, True]),
        ([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], [10 / 4, 5 / 2, 5.0], [True, True, True]),
    ]:
        heard = {}
        for client in range(2):
            row = torch.tensor([rows[client]])
            sums = 5 * (row > 0).double()[:, None, :, None].expand(1, 2, 3, 3)
            sent = {"model": there.model[None], "sums": sums, "rows": row}
            heard = method.hear(heard, (client,), sent, torch.tensor([2]), config)
        state = method.server(there.problem, state, heard, config, torch.Generator())
        assert state["known"].tolist() == [known]
        for c, value in enumerate(expected):
            assert torch.equal(state["prototypes"][0, :, c], torch.full((2, 3), value).double())
        assert torch.equal(state["model"][0], there.model)
        assert method.down(state, (3, 5))["prototypes"].shape == (2, 2, 3, 3)


def test_without_its_terms_it_is_fedavg(multimodal, plain):
    there = multimodal(9, 0, 4, 1, 7)
    nothing = MFCPLConfig(regularisation=0, contrast=0, alignment=0)
    config = plain.model_copy(update={"mfcpl": nothing, "batch": 4})
    mine, avg = (there.play(name, config)[0]["model"] for name in ("mfcpl", "fedavg"))
    torch.testing.assert_close(mine, avg)


@pytest.mark.parametrize("known", [[False, False, False], [True, False, True]])
def test_a_class_without_a_prototype_gives_finite_gradients(multimodal, known):
    there = multimodal(6)
    penalty = mfcpl.regulariser(prototypes(), torch.tensor([known]), OWN)
    batch = batch_of(there, 0, there.model.requires_grad_())
    (slope,) = torch.autograd.grad(penalty(torch.tensor([0]), batch).sum(), there.model)
    assert slope.isfinite().all()
