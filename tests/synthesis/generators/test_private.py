"""Clusters of embeddings, and the cluster loss against loops over rows in float64."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fedsyn.core.training import Training
from fedsyn.models.retrieval import fuse
from fedsyn.objectives.pairs.base import PairBatch
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators.gaussian import GAUSSIAN
from fedsyn.synthesis.generators.private import cluster_penalty, embedded_clusters
from fedsyn.synthesis.generators.wgan import WGAN, WGAN_GP

CONFIG = SYNTHESIS.section(
    cluster=0.7, embedding_clusters=4, indirect=1.0, jsd=1.0, prototypes=2, noise=4, hidden=(6,),
    critic_hidden=(6,), steps=2, batch=8, critic_warmup=0,
)  # fmt: skip


def test_clusters_are_of_each_clients_embedded_pairs_whoever_is_beside(toy):
    cohort, models = toy.cohort(30, 12), toy.models[:2]
    centroids, counts = embedded_clusters(toy.net, models, toy.features, cohort, 4)
    assert counts.sum(-1).tolist() == [30, 12]
    torch.testing.assert_close(centroids.norm(dim=-1), torch.ones(2, 4))
    for client in range(2):
        rows = toy.features[torch.from_numpy(cohort.rows[client])]
        fused = fuse(*toy.net.embed(models[[client]], rows[None]))[0]
        owner = (fused @ centroids[client].T).argmax(-1)
        assert owner.bincount(minlength=4).tolist() == counts[client].tolist()
        means = torch.stack([fused[owner == cluster].mean(0) for cluster in range(4)])
        torch.testing.assert_close(centroids[client], normalize(means, dim=-1))
        alone = embedded_clusters(toy.net, models[[client]], toy.features, cohort.take([client]), 4)
        torch.testing.assert_close(alone[0][0], centroids[client])


@pytest.mark.parametrize("padded", [False, True])
def test_the_cluster_loss_by_hand(toy, padded):
    cohort, models = toy.cohort(30, 3), toy.models[:2]  # the second has fewer pairs than clusters
    penalty = cluster_penalty(toy.net, models, toy.features, cohort, CONFIG)
    centroids, counts = embedded_clusters(toy.net, models, toy.features, cohort, 4)
    assert (counts[1] == 0).any()
    clients = torch.tensor([1, 0])  # in another order than the cohort's
    image, text = (
        normalize(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed)), dim=-1)
        for seed in range(2)
    )
    valid = torch.tensor([[True] * 3 + [False] * 2, [True] * 5]) if padded else None
    found = penalty(clients, PairBatch(image, text, torch.zeros(2, 5, 5), valid))
    for place, client in enumerate(clients.tolist()):
        c = centroids[client, counts[client] > 0].double().numpy()
        rows = range(3 if padded and place == 0 else 5)
        total = 0.0
        for row in rows:
            u, v = (half[place, row].double().numpy() for half in (image, text))
            y = int(np.argmax(c @ (u + v)))
            for x in (u, v):
                logits = c @ x
                logits[y] -= 0.001
                total += math.log(sum(math.exp(one) for one in logits)) - logits[y]
        assert found[place].item() == pytest.approx(0.7 * total / len(rows), rel=1e-5)


def test_private_networks_trained_with_it_have_tighter_clusters(toy):
    cohort, training = toy.cohort(30, 30), Training(epochs=20, batch=8, lr=0.01)
    start = toy.models[:2]
    penalty = WGAN.penalty(toy.net, start, toy.features, cohort, CONFIG.changed(cluster=20.0))
    plain, trained = (
        toy.problem.train(start, cohort, training, "private", penalty=one)[0]
        for one in (None, penalty)
    )

    def tightness(models):
        centroids, _ = embedded_clusters(toy.net, models, toy.features, cohort, 4)
        rows = torch.stack([toy.features[torch.from_numpy(held)] for held in cohort.rows])
        fused = fuse(*toy.net.embed(models, rows))
        return (fused @ centroids.mT).amax(-1).mean()

    assert tightness(trained) > tightness(plain)


def test_without_a_weight_or_a_critic_there_is_nothing_more_to_minimise(toy):
    cohort = toy.cohort(30)
    given = (toy.net, toy.models[:1], toy.features, cohort)
    assert WGAN_GP.penalty(*given, CONFIG.changed(cluster=0.0)) is None
    assert GAUSSIAN.penalty(*given, CONFIG) is None


def test_losses_look_at_clusters_of_embeddings_where_asked_to(toy):
    clients = toy.cohort(30)
    found = [
        toy.trained(WGAN_GP, CONFIG.changed(embedding_clusters=number), clients).state
        for number in (0, 4, 5)
    ]
    assert not torch.equal(found[0]["generator"], found[1]["generator"])
    assert not torch.equal(found[1]["generator"], found[2]["generator"])


def test_a_cluster_loss_needs_clusters():
    with pytest.raises(ValueError, match=r"synthesis\.cluster needs synthesis\.embedding_clusters"):
        type(CONFIG)(cluster=1.0)
