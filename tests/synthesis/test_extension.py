"""The line search, and what the mode of synthesis asks of clients."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from fedsyn.core.judgement import Judgement, mixtures
from fedsyn.data.moments import pair_moments
from fedsyn.federation.config import load
from fedsyn.synthesis import extension
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.steps import SERVER_STEPS

MODEL, TUNED = torch.zeros(1, 3), torch.ones(1, 3)


@dataclass
class Clients:
    """Who like a model by its distance from the number that each likes best."""

    likes: tuple[float, ...]
    rows: tuple[int, ...]
    asked: list = field(default_factory=list)

    def __call__(self, models, shares=()):
        self.asked.append((models, shares))
        found = [float(one.mean()) for one in mixtures(models, shares)]
        losses = tuple(tuple(abs(value - like) for like in self.likes) for value in found)
        return Judgement(tuple(range(len(self.likes))), losses, self.rows, bytes_up=3)


def searched(shares, clients, ids=(0, 1), tuned=TUNED):
    """What is made of the fine-tuned model."""
    config = SYNTHESIS.section(line_search=shares)
    view = SimpleNamespace(
        config=config, model=MODEL, judge=clients, method=SimpleNamespace(ids=ids)
    )
    return extension._searched(view, tuned, {"loss": 1.0})


def test_the_share_that_the_rounds_clients_like_best_is_taken():
    clients = Clients((0.2, 0.6, 0.0), (1, 3, 50))
    result = searched((1.0, 0.5, 0.0, 0.25), clients)
    assert result.model.tolist() == [[0.5] * 3]
    # (0.3 · 1 + 0.1 · 3) / 4 at 0.5; the third client, of many rows, did not do the round.
    means = [(abs(v - 0.2) + 3 * abs(v - 0.6)) / 4 for v in (0.0, 0.25, 0.5, 1.0)]
    assert result.record == {"loss": 1.0, "share": 0.5, "holdout_shares": pytest.approx(means)}
    assert result.judgement.losses == (pytest.approx((0.3, 0.1, 0.5)),)
    ((models, shares),) = clients.asked
    assert models == [MODEL, TUNED] and shares == [0.0, 0.25, 0.5, 1.0]


def test_of_shares_that_are_liked_alike_the_nearest_to_the_aggregated_model_is_taken():
    assert searched((1.0, 0.0), Clients((0.5,), (2,)), ids=(0,)).record["share"] == 0


def test_where_nobody_holds_pairs_out_the_last_share_is_taken():
    result = searched((1.0, 0.0, 0.5), Clients((0.5, 0.5), (0, 0)))
    assert result.record["share"] == 1 and torch.equal(result.model, TUNED)
    assert all(math.isnan(mean) for mean in result.record["holdout_shares"])


def test_the_whole_of_it_is_the_fine_tuned_model_itself():
    result = searched((0.0, 1.0), Clients((0.9, 0.8), (1, 1)))
    assert result.record["share"] == 1 and torch.equal(result.model, TUNED)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_of_one_share_nobody_is_asked(share):
    clients = Clients((0.0, 0.0), (1, 1))
    result = searched((share,), clients)
    assert not clients.asked and result.judgement is None
    torch.testing.assert_close(result.model, torch.full((1, 3), share))
    assert result.record == {"loss": 1.0, "share": share}


def test_a_model_that_nothing_has_changed_is_not_searched():
    clients = Clients((0.0, 0.0), (1, 1))
    result = searched((0.0, 1.0), clients, tuned=MODEL)
    assert result.model is MODEL and not clients.asked and result.record == {"loss": 1.0}


# ---- Who does something in which round -----------------------------------------------------------


def mode(*keys):
    """The extension that is configured, and whether clients take part in rounds 1 to 6."""
    config = load(None, [f"synthesis.{key}" for key in keys])
    ((found, own),) = config.active
    return found, "".join(str(int(found.takes_part(own, number))) for number in range(1, 7))


@pytest.mark.parametrize(
    ("keys", "rounds"),
    [
        (["generator=gaussian", "clusters=all", "cluster_rounds=2"], "110000"),
        (["generator=gaussian", "clusters=all", "cluster_rounds=2", "first_round=3"], "001100"),
        (["generator=gaussian", "clusters=all", "prototypes=1"], "000000"),
        (["generator=gaussian", "clusters=own"], "111111"),
        (["generator=wgan-gp", "clusters=all", "cluster_rounds=2"], "111111"),
        (["generator=wgan-gp", "clusters=all", "first_round=2", "last_round=4"], "011100"),
        # The server looks at what each client has of each cluster.
        (["generator=gaussian", "server=fedftg", "clusters=all", "prototypes=1"], "111111"),
    ],
)
def test_clients_take_part_while_there_is_something_for_them_to_do(keys, rounds):
    assert mode(*keys)[1] == rounds


@pytest.mark.parametrize("generator", GENERATORS.names)
@pytest.mark.parametrize("clusters", ["all", "own"])
@pytest.mark.parametrize("step", SERVER_STEPS.names)
def test_what_is_sent_to_clients_is_what_was_announced(toy, generator, clusters, step):
    found, _ = mode(
        f"generator={generator}", f"clusters={clusters}", f"server={step}", "prototypes=3",
        "noise=4", "share=clients", "shared=7", "shared_batch=2",
    )  # fmt: skip
    config = SYNTHESIS.section(
        clusters=clusters, prototypes=3, noise=4, share="clients", shared=7, shared_batch=2
    )
    there = found.largest(toy.problem, config)
    state = {"pairs": torch.zeros(5, 5)}
    if clusters == "all":
        (moments,) = pair_moments(toy.features, toy.cohort(30).rows)
        state |= found.begin(moments, config, 0)
    else:
        state |= {"basis": torch.zeros(4, 5)}
    sent = found.broadcast(state)
    assert sent.keys() <= there.keys()
    for name, value in sent.items():
        assert value.dim() == there[name].dim() and value.dtype == there[name].dtype
        assert all(a <= b for a, b in zip(value.shape, there[name].shape, strict=True))
