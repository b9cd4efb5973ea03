"""What a client sends and keeps of synthesis."""

import pytest
import torch
from torch.nn.functional import normalize

from fedsyn.core.payload import nbytes
from fedsyn.core.wire import send
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators.gaussian import GAUSSIAN
from fedsyn.synthesis.generators.wgan import WGAN_GP

CONFIG = SYNTHESIS.section(
    clusters="own", directions="own", min_cluster=3, direct=0.1, indirect=0.1, jsd=0.1,
    prototypes=3, noise=4, hidden=(6,), critic_hidden=(6,), steps=2, batch=8, critic_warmup=2,
)  # fmt: skip
NEW, KNOWN = torch.tensor([True]), torch.tensor([False])


@pytest.mark.parametrize(
    ("generator", "space", "each_round"),
    [
        (WGAN_GP, "global", {"generator"}),
        (GAUSSIAN, "global", set()),
        (WGAN_GP, "private", {"generator", "embedded"}),
    ],
    ids=["wgan-gp", "gaussian", "private"],
)
def test_what_leaves_a_client_is_listed(toy, generator, space, each_round):
    upload = toy.trained(generator, CONFIG.changed(space=space), toy.cohort(30)).upload
    once = {"prototypes", "counts", "basis"}
    assert not upload.sums and set(upload.own) == once | each_round
    assert set(send(upload, KNOWN)) == {f"own/{name}" for name in each_round}
    first = {f"once-own/{name}" for name in once}
    assert set(send(upload, NEW)) == first | {f"own/{name}" for name in each_round}


def test_a_half_precision_upload_is_half_the_bytes_and_the_client_goes_by_what_is_sent(toy):
    half, whole = (
        toy.trained(WGAN_GP, CONFIG.changed(upload=numbers), toy.cohort(30))
        for numbers in ("float16", "float32")
    )
    sent, state = send(half.upload, NEW), half.state
    assert nbytes(send(half.upload, KNOWN)) * 2 == nbytes(send(whole.upload, KNOWN))
    assert torch.equal(sent["own/generator"], state["generator"].half())
    for name in ("prototypes", "basis"):
        assert sent[f"once-own/{name}"].dtype == torch.float16
        assert torch.equal(sent[f"once-own/{name}"].float(), state[name])
    assert torch.equal(sent["once-own/counts"], state["counts"])


def test_private_prototypes_are_as_the_clients_network_embeds_them(toy):
    result = toy.trained(WGAN_GP, CONFIG.changed(space="private"), toy.cohort(30, 20))
    image, text = toy.net.embed(toy.models[:2], result.state["prototypes"])
    expected = normalize(image + text, dim=-1)
    torch.testing.assert_close(result.state["embedded"], expected)
    assert torch.equal(result.upload.own["embedded"], result.state["embedded"])
