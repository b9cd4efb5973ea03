"""The steps of `load`, taken apart: what nodes and a server compute is what one process does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsyn.data import federated
from fedsyn.data.federated import (
    add,
    derive,
    derive_idf,
    files_of_silos,
    finish,
    frequencies,
    load,
    local_data,
    moments,
    preprocessing_like,
)
from fedsyn.errors import DataError

STREAM = np.random.default_rng(0)
CLIENTS, ROWS = 5, 120
ARRAYS = {
    "raw": {
        "image": STREAM.integers(0, 256, size=(ROWS, 16, 16), dtype=np.uint8),
        "text": STREAM.choice(["apple pie", "bread roll", "cake", "dates", "eggs"], size=(ROWS, 2)),
    },
    "features": {
        "image": STREAM.normal(size=(ROWS, 7)) + 1,
        "text": STREAM.normal(size=(ROWS, 5)).astype(np.float32),
    },
}
OVERLAYS = {"missing_image": 0.2, "unpaired": 0.1, "single_modality": 0.4}


@pytest.fixture(params=ARRAYS)
def settings(request, configure, tmp_path):
    """Five clients, two of which hold one modality alone."""
    split = np.where(np.arange(ROWS) % 4 == 0, "test", "train")
    np.savez(tmp_path / "pairs.npz", **ARRAYS[request.param], split=split)
    dims = {"image_dim": 6, "text_dim": 4, "buckets": 64, "text_noise": 0.5}
    return configure(
        data={"path": str(tmp_path / "pairs.npz"), **dims},
        partition={"scheme": "iid", "clients": CLIENTS, "min_size": 4, **OVERLAYS},
    )


def exchange(server, nodes):
    """The data of the server and of each node, after both exchanges."""
    idf = derive_idf(add(frequencies(node) for node in nodes))
    derived = derive(server, add(moments(node, idf) for node in nodes), idf)
    return [finish(one, derived) for one in (server, *nodes)]


def assert_same(one, other, same=torch.equal):
    assert one.keys() == other.keys()
    for name in one:
        assert same(one[name], other[name]), name


def close(one, other):
    error = (one - other).abs().max().double()
    return bool(error <= 1e-9 * other.abs().max())


def assert_same_rows(node, whole, clients):
    for client in clients:
        for field in ("pairs", "holdout", "images", "texts"):
            here, there = (getattr(data.silos[client], field) for data in (node, whole))
            assert torch.equal(node.features[here], whole.features[there])


def test_one_client_a_node_gives_bitwise_what_one_process_gives(settings):
    whole = load(settings)
    nodes = [local_data(settings, [client], test=False) for client in range(CLIENTS)]
    server, *nodes = exchange(local_data(settings, ()), nodes)
    assert_same(server.preprocessing, whole.preprocessing)
    assert torch.equal(server.features, whole.features[whole.test])
    for client, node in enumerate(nodes):
        assert_same_rows(node, whole, [client])


def test_several_clients_a_node_give_the_same_up_to_rounding(settings):
    whole = load(settings)
    nodes = [local_data(settings, clients, test=False) for clients in ([0, 3], [4, 1, 2])]
    server, *_ = exchange(local_data(settings, ()), nodes)
    assert_same(server.preprocessing, whole.preprocessing, close)


def test_files_of_the_clients_give_bitwise_what_one_process_gives(settings, tmp_path):
    def write(name, rows):
        held = undivided.pairs.take(rows)
        np.savez(tmp_path / f"{name}.npz", image=held.image, text=held.text)
        return tmp_path / f"{name}.npz"

    whole = load(settings)
    both = settings.partition.changed(single_modality=0.0)
    undivided = local_data(replace(settings, partition=both))
    files = {client: write(client, silo.training) for client, silo in enumerate(undivided.silos)}
    server = federated.test_file(settings, write("test", undivided.test))
    for groups in ([[client] for client in files], [list(files)]):
        nodes = [files_of_silos(settings, {c: files[c] for c in clients}) for clients in groups]
        tested, *trained = exchange(server, nodes)
        assert_same(tested.preprocessing, whole.preprocessing)
        assert torch.equal(tested.features, whole.features[whole.test])
        for clients, node in zip(groups, trained, strict=True):
            assert_same_rows(node, whole, clients)


def test_a_server_knows_what_payloads_look_like(settings):
    def looks(payload):
        return {name: (value.dtype, value.shape) for name, value in payload.items()}

    server, node = local_data(settings, ()), local_data(settings, [1, 2], test=False)
    idf = derive_idf(frequencies(node))
    assert looks(frequencies(server)) == looks(frequencies(node))
    assert looks(moments(server, idf)) == looks(moments(node, idf))
    assert looks(preprocessing_like(node)) == looks(load(settings).preprocessing)
    own = frequencies(server) | moments(server, idf)
    assert not any(value.any() for value in own.values())


def test_somebody_must_have_training_rows(settings):
    server = local_data(settings, ())
    idf = derive_idf(frequencies(server))
    with pytest.raises(DataError, match="no client has a training image"):
        derive(server, moments(server, idf), idf)
