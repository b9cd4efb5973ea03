"""What clients keep: in memory or in a file, and whatever happens between two checkpoints."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fedsyn.errors import RunError
from fedsyn.federation.store import ClientStore

HOST = torch.device("cpu")
CLIENTS = 7
FILE = "rows.safetensors"
BUDGETS = {"memory": 1 << 20, "file": 0}


def store(folder, kind="file"):
    return ClientStore(CLIENTS, folder / FILE, BUDGETS[kind], HOST)


def rows(ids, mark):
    return {
        "weights": torch.tensor(ids).float()[:, None] + 100 * mark + torch.zeros(3),
        "count": torch.tensor(ids) + mark,
    }


@pytest.mark.parametrize("kind", BUDGETS)
@settings(deadline=None, max_examples=30)
@given(
    written=st.lists(
        st.lists(st.integers(0, CLIENTS - 1), min_size=1, unique=True), min_size=1, max_size=6
    )
)
def test_the_last_row_put_is_the_row_taken(tmp_path_factory, kind, written):
    clients, last = store(tmp_path_factory.mktemp("rows"), kind), {}
    for mark, ids in enumerate(written):
        clients.put(ids, rows(ids, mark))
        last |= dict.fromkeys(ids, mark)
        if mark % 2:
            clients.tensors()
            clients.saved()
        assert clients.known.tolist() == sorted(last)
        for client, mark_of_it in last.items():
            found = clients.take([client])
            assert all(torch.equal(found[k], v) for k, v in rows([client], mark_of_it).items())
    assert clients.has(range(CLIENTS)).tolist() == [client in last for client in range(CLIENTS)]


@pytest.mark.parametrize("kind", BUDGETS)
def test_rows_come_in_the_order_asked_for(tmp_path, kind):
    clients = store(tmp_path, kind)
    clients.put([1, 4, 6], rows([1, 4, 6], 0))
    assert clients.take([6, 1], ["count"])["count"].tolist() == [6, 1]


@pytest.mark.parametrize("kind", BUDGETS)
def test_rows_are_copied_in_and_out(tmp_path, kind):
    clients, given = store(tmp_path, kind), rows([0, 2], 1)
    clients.put([0, 2], given)
    for names in ((), ["weights"]):
        for value in (*given.values(), *clients.take([0, 2], names).values()):
            value.zero_()
        found = clients.take([0, 2])
        assert all(torch.equal(found[k], v) for k, v in rows([0, 2], 1).items())


@pytest.mark.parametrize("kind", BUDGETS)
def test_what_has_no_name_in_a_put_stays_as_it_is(tmp_path, kind):
    clients = store(tmp_path, kind)
    clients.put([0, 2], rows([0, 2], 1))
    clients.saved()
    clients.put([2], {"count": torch.tensor([9])})
    assert clients.take([0, 2], ["count"])["count"].tolist() == [1, 9]
    assert torch.equal(clients.take([0, 2])["weights"], rows([0, 2], 1)["weights"])


@pytest.mark.parametrize("kind", BUDGETS)
def test_clients_may_have_any_ids(tmp_path, kind):
    clients = ClientStore(3, tmp_path / FILE, BUDGETS[kind], HOST, ids=[4, 70, 800])
    clients.put([800, 4], rows([800, 4], 0))
    assert clients.known.tolist() == [4, 800]
    assert clients.has([4, 70, 800]).tolist() == [True, False, True]
    assert clients.take([4, 800])["count"].tolist() == [4, 800]


def test_a_gradient_through_some_rows_survives_a_change_of_their_neighbours(tmp_path):
    clients = store(tmp_path, "memory")
    clients.put([0, 1, 2, 3], rows([0, 1, 2, 3], 1))
    mine, theirs = (clients.take(ids)["weights"] for ids in ([0, 1], [2, 3]))
    factor = torch.ones(2, 3, requires_grad=True)
    product = (mine * factor).sum()
    theirs.mul_(0)  # as another thread does
    product.backward()
    assert torch.equal(factor.grad, mine)


@pytest.mark.parametrize("kind", BUDGETS)
def test_a_checkpoint_survives_what_comes_after_it(tmp_path, kind):
    clients = store(tmp_path, kind)
    clients.put([0, 2], rows([0, 2], 1))
    saved = {name: value.clone() for name, value in clients.tensors().items()}
    clients.saved()
    for mark in (2, 3):  # two rounds without a checkpoint, then a crash
        clients.put([0, 1, 2], rows([0, 1, 2], mark))
    again = store(tmp_path, kind)
    again.restore(saved)
    assert again.known.tolist() == [0, 2]
    assert torch.equal(again.take([0, 2])["weights"], rows([0, 2], 1)["weights"])


def test_the_file_is_safetensors_and_sparse(tmp_path):
    clients = ClientStore(100_000, tmp_path / FILE, 0, HOST)
    clients.put([99_999], {"x": torch.ones(1, 1024)})
    status = (tmp_path / FILE).stat()
    assert status.st_size > 8 * 100_000 * 1024
    assert status.st_blocks * 512 < 1 << 20
    small = store(tmp_path / "small")
    small.put([5], rows([5], 0))
    small.tensors()
    found = load_file(tmp_path / "small" / FILE)
    assert torch.equal(found["weights"][0, 5], rows([5], 0)["weights"][0])


def test_a_missing_file_is_named(tmp_path):
    clients = store(tmp_path)
    clients.put([0], rows([0], 0))
    saved = clients.tensors()
    (tmp_path / FILE).unlink()
    with pytest.raises(RunError, match=FILE):
        store(tmp_path).restore(saved)
    (tmp_path / FILE).write_bytes(b"no such thing")
    with pytest.raises(RunError, match=FILE):
        store(tmp_path).restore(saved)
