"""FedMAC: a row is itself whichever half it lacks."""

import torch
from torch.nn.functional import normalize

from fedsyn.methods.fedavg import FEDAVG
from fedsyn.methods.fedmac.method import FEDMAC, FedMACOptions
from fedsyn.methods.fedmac.network import MissingAwareNet

OWN = FedMACOptions(reconstruction=0.5, contrast=0.7, anchor=0.3, temperature=0.4)
SIZES = (12, 9)


def terms(there, client, w):
    """R, C and A of one client's rows, each of which has both halves."""
    rows = torch.from_numpy(there.rows(client))
    rows = rows[there.problem.present[rows].all(-1) & (there.problem.label[rows] >= 0)]

    def given(*halves):
        present = torch.tensor(halves).expand(1, len(rows), 2)
        reading = there.problem.net.read(w[None], there.problem.features[rows][None], present)
        return reading, normalize(torch.cat(reading.fused, -1)[0], dim=-1)

    (reading, whole), (_, image), (_, text), (_, none) = (
        given(*halves) for halves in ((True, True), (True, False), (False, True), (False, False))
    )
    own, cross = ([half[0] for half in both] for both in (reading.own, reading.cross))
    apart = sum((own[u] - cross[1 - u]).square().sum(-1).mean() / 3 for u in (0, 1))
    contrast = 0
    for other in (image, text):
        similarity = whole @ other.T / 0.4
        for one in (similarity, similarity.T):
            contrast = contrast + (one.logsumexp(-1) - one.diagonal()).mean() / 4
    return apart, contrast, (whole * none).sum(-1)


def test_a_step_by_hand(multimodal, by_hand, plain):
    there = multimodal(*SIZES, kind=MissingAwareNet)
    there.model[-6::2] *= -1  # what stands in, so that it is near to some rows and far from others
    config = plain.changed(fedmac=OWN, epochs=1)
    sent, _, losses = there.client(FEDMAC, {"model": there.model.expand(2, -1)}, {}, config)
    near = []
    for client in range(2):

        def loss(w, client=client):
            rows = torch.from_numpy(there.rows(client))[None]
            batch = there.problem.batch(w[None], rows, torch.ones_like(rows, dtype=torch.bool))
            task = there.problem.objective(there.problem.net, batch)[0]
            apart, contrast, anchored = terms(there, client, w)
            anchor = sum(max(0, one) for one in anchored) / len(anchored)
            return task + 0.5 * apart + 0.7 * contrast + 0.3 * anchor

        torch.testing.assert_close(losses[client], loss(there.model).float())
        expected = by_hand.descend(there.model, loss, config.lr, steps=1)
        torch.testing.assert_close(sent["model"][client], expected)
        near += terms(there, client, there.model)[2].tolist()
    assert min(near) < 0 < max(near)


def test_clients_stacked_and_alone_agree(multimodal, plain):
    there = multimodal(9, 0, 4, 1, 7, kind=MissingAwareNet)
    config = plain.changed(batch=4)
    together, alone = (there.play(FEDMAC, config, stack=s)[0]["model"] for s in (5, 1))
    torch.testing.assert_close(together, alone)
    assert not torch.equal(together[0, -6:], there.model[-6:])  # what stands in is learnt


def test_without_its_terms_it_is_fedavg(multimodal, plain):
    there = multimodal(9, 4, kind=MissingAwareNet)
    nothing = FedMACOptions(reconstruction=0, contrast=0, anchor=0)
    config = plain.changed(fedmac=nothing, batch=4)
    mine, avg = (there.play(method, config)[0]["model"] for method in (FEDMAC, FEDAVG))
    torch.testing.assert_close(mine, avg)
