"""What travels from clients: sums that are added up, and what is each client's own."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.core.payload import nbytes
from fedsyn.core.wire import (
    Intake,
    Joined,
    Library,
    Sum,
    Upload,
    Uploads,
    add_up,
    client_of,
    form_of,
    halved,
    send,
)

CLIENTS = 7


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cut(upload, begin, end):
    """What the clients of a chunk send of it."""
    sums = {
        name: replace(one, value=one.value[begin:end], weight=one.weight[begin:end])
        for name, one in upload.sums.items()
    }
    own = {name: value[begin:end] for name, value in upload.own.items()}
    return replace(upload, sums=sums, own=own)


@dataclass
class Server:
    """The server's end, and what it knows of earlier rounds."""

    exposed: tuple[str, ...] = ()
    heard: set[int] = field(default_factory=set)
    totals: dict[str, torch.Tensor] = field(default_factory=dict)

    def new(self, ids):
        return torch.tensor([client not in self.heard for client in ids])

    def receive(self, upload, ids=None, stack=CLIENTS, nodes=None):
        """A round: clients by themselves in chunks, or those of each node with sums added up."""
        ids = range(CLIENTS) if ids is None else ids
        intake = Intake(self.totals)
        for places in nodes or [range(len(ids))]:
            joined = Joined()
            for begin in range(places[0], places[-1] + 1, stack):
                end = min(begin + stack, places[-1] + 1)
                mine = ids[begin:end]
                sent = send(cut(upload, begin, end), self.new(mine), self.exposed)
                if nodes is None:
                    intake.take(mine, sent)
                else:
                    joined.take(sent)
            if nodes is not None:
                intake.take([ids[place] for place in places], joined.payload)
        self.heard.update(ids)
        return intake.uploads()


def of(value, weight):
    """The upload of one sum, ``x``."""
    return Upload({"x": Sum(value, weight.double())})


def mean(value, weight, stack=CLIENTS):
    return Server().receive(of(value, weight), range(len(weight)), stack).mean("x")


class TestSums:
    @given(
        st.lists(
            st.tuples(st.integers(0, 9), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=12
        ).filter(lambda clients: any(weight for weight, _ in clients)),
        st.integers(1, 12),
    )
    def test_a_mean_is_the_hand_computation_in_client_order(self, clients, stack):
        weights, rows = zip(*clients, strict=True)
        found = mean(torch.tensor(rows)[:, None], torch.tensor(weights), stack)
        total = mass = 0.0
        for weight, x in clients:  # in float64, where such products have no rounding
            total, mass = total + weight * x, mass + weight
        assert found.dtype == torch.float64 and found.tolist() == [total / mass]

    @pytest.mark.parametrize(
        ("rows", "total"), [([1e16, 1.0, -1e16], 0.0), ([1e16, -1e16, 1.0], 1.0)]
    )
    def test_clients_are_added_up_one_after_another(self, rows, total):
        value = torch.tensor(rows, dtype=torch.float64)[:, None]
        uploads = Server().receive(of(value, torch.ones(3)), range(3))
        assert uploads.sums["x"].tolist() == [total] and uploads.weight("x") == 3

    @given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=12), st.integers(1, 12))
    def test_the_mean_of_identical_models_is_that_model(self, weights, stack):
        model = draw(50)
        found = mean(model.expand(len(weights), -1), torch.tensor(weights), stack)
        assert torch.equal(found.float(), model)

    def test_weights_are_shares(self):
        assert mean(torch.tensor([[0.0], [4.0]]), torch.tensor([3.0, 1.0])) == 1.0

    @given(st.integers(1, CLIENTS))
    def test_how_clients_come_changes_nothing(self, stack):
        rows, weights = draw(CLIENTS, 20), draw(CLIENTS, seed=1).abs()
        assert torch.equal(mean(rows, weights, stack), mean(rows, weights))

    def test_what_has_weights_of_its_own_has_a_total_of_its_own(self):
        rows = torch.tensor([[1.0], [3.0]])
        sums = {"x": Sum(rows, torch.tensor([2.0, 6.0])), "y": Sum(rows, torch.ones(2), False)}
        uploads = Server().receive(Upload(sums), range(2), stack=1)
        assert {name: value.tolist() for name, value in uploads.sums.items()} == {
            "x": [20.0], "y": [4.0],
        }  # fmt: skip
        assert (uploads.weight("x"), uploads.weight("y")) == (8.0, 2.0)
        assert (uploads.mean("x"), uploads.mean("y")) == (2.5, 2.0)

    def test_a_client_without_a_say_may_send_anything(self):
        assert mean(torch.tensor([[2.0], [torch.nan]]), torch.tensor([1.0, 0.0])) == 2.0

    @pytest.mark.parametrize("weights", [[1.0, -2.0], [torch.nan, 1.0], [torch.inf, 1.0]])
    def test_refuses_weights_that_are_no_weights(self, weights):
        with pytest.raises(ValueError, match="finite and >= 0"):
            mean(torch.zeros(2, 1), torch.tensor(weights))

    def test_refuses_weights_without_a_positive_sum(self):
        with pytest.raises(ValueError, match="'x' with a positive sum"):
            mean(torch.zeros(2, 1), torch.zeros(2))

    def test_where_nobody_was_heard_there_is_no_weight(self):
        assert Uploads().weight("x") == 0.0

    def test_what_clients_hold_is_not_changed(self):
        rows, weights = draw(3, 4), torch.tensor([1.0, 2.0, 3.0])
        before = rows.clone()
        sums = add_up(None, rows, weights)
        again = add_up((sums[0].clone(), sums[1].clone()), rows, weights)
        assert torch.equal(rows, before) and torch.equal(again[0], 2 * sums[0])


def mixed():
    """An upload of all kinds: sums and own parts, in every round or once, in half or in full."""
    weights = torch.arange(1.0, CLIENTS + 1).double()
    sums = {
        "model": Sum(draw(CLIENTS, 5), weights),
        "short": Sum(draw(CLIENTS, 2, 3, seed=1), weights),
        "rows": Sum(torch.arange(2 * CLIENTS).view(-1, 2), torch.ones(CLIENTS).double(), False),
        "first": Sum(draw(CLIENTS, 4, seed=2), weights),
    }
    own = {
        "head": draw(CLIENTS, 3, seed=3),
        "counts": torch.arange(3 * CLIENTS).view(-1, 3),
        "prototypes": draw(CLIENTS, 2, 2, seed=4),
        "kinds": torch.arange(CLIENTS).view(-1, 1),
    }
    half = frozenset({"short", "prototypes", "counts"})
    return Upload(sums, own, frozenset({"first", "prototypes", "kinds"}), half)


def bits(payload):
    return {name: (value.dtype, value.tolist()) for name, value in payload.items()}


class TestOnce:
    def test_new_clients_alone_send_it(self):
        upload, new = mixed(), torch.tensor([True, False, True, True, False, False, True])
        sent = send(upload, new)
        once = {name for name in sent if name.startswith("once-")}
        assert once == {
            "once-sums/first", "once-weights/first", "once-own/prototypes", "once-own/kinds",
        }  # fmt: skip
        assert torch.equal(sent["once-own/kinds"], upload.own["kinds"][new])
        assert torch.equal(sent["once-sums/first"], upload.sums["first"].value[new])
        assert torch.equal(sent["once-weights/first"], upload.sums["first"].weight[new])
        assert torch.equal(sent["own/head"], upload.own["head"])
        assert not once & send(upload, torch.zeros(CLIENTS, dtype=torch.bool)).keys()

    def test_what_one_client_has_sent_is_what_it_sends_alone(self):
        upload, new = mixed(), torch.tensor([True, False, True, True, False, False, True])
        sent = send(upload, new, ("model",))
        for place in range(CLIENTS):
            own = slice(place, place + 1)
            alone = send(cut(upload, place, place + 1), new[own], ("model",))
            assert bits(client_of(sent, place, new)) == bits(alone)

    def test_sums_of_it_are_over_all_clients_heard_so_far(self):
        server, upload = Server(), mixed()
        first, weight = upload.sums["first"].value.double(), upload.sums["first"].weight
        for ids, so_far in (((0, 2), [0, 2]), ((1, 2, 5), [0, 2, 1, 5]), ((2,), [0, 2, 1, 5])):
            mine = list(ids)
            here = Upload(
                {
                    name: replace(one, value=one.value[mine], weight=one.weight[mine])
                    for name, one in upload.sums.items()
                },
                {name: value[mine] for name, value in upload.own.items()},
                upload.once,
                upload.half,
            )
            uploads = server.receive(here, ids)
            expected = sum(weight[client] * first[client] for client in so_far)
            torch.testing.assert_close(uploads.sums["first"], expected, rtol=1e-15, atol=0)
            assert uploads.weight("first") == weight[so_far].sum()
            assert uploads.weight("model") == weight[mine].sum()  # of this round alone
        assert server.totals.keys() == {"sums/first", "weights/first"}

    def test_of_ones_own_it_is_told_apart_by_who_is_new(self):
        upload = mixed()
        new = torch.tensor([False, True, False, False, True, False, False])
        every, first = Intake({}).take(range(CLIENTS), send(upload, new))
        assert every.keys() == {"head", "counts"}
        assert torch.equal(every["counts"], upload.own["counts"])
        assert torch.equal(first["kinds"], upload.own["kinds"][[1, 4]])


class TestHalf:
    def test_floating_point_numbers_travel_as_float16_and_nothing_else_does(self):
        upload = mixed()
        sent = send(upload, torch.ones(CLIENTS, dtype=torch.bool))
        assert {name for name, value in sent.items() if value.dtype == torch.float16} == {
            "sums/short", "once-own/prototypes",
        }  # fmt: skip
        assert torch.equal(sent["sums/short"], upload.sums["short"].value.half())
        assert sent["weights/short"].dtype == torch.float64
        assert torch.equal(sent["own/counts"], upload.own["counts"])

    def test_sums_are_of_what_has_travelled_in_float64(self):
        upload = mixed()
        one = upload.sums["short"]
        uploads = Server().receive(upload)
        rows = one.value.numpy().astype(np.float16).astype(np.float64)
        expected = np.tensordot(one.weight.numpy(), rows, 1)
        np.testing.assert_allclose(uploads.sums["short"].numpy(), expected, rtol=1e-14)
        exact = np.tensordot(one.weight.numpy(), one.value.numpy().astype(np.float64), 1)
        assert np.abs(uploads.sums["short"].numpy() - exact).max() > 1e-4

    def test_a_client_knows_what_will_have_travelled(self):
        value = draw(4, 3)
        assert halved(value).dtype == torch.float32
        assert torch.equal(halved(value).half(), value.half())
        assert not torch.equal(halved(value), value)
        whole = torch.tensor([2**20 + 1])
        assert torch.equal(halved(whole), whole)


NODES = [[range(CLIENTS)], [range(3), range(3, 4), range(4, CLIENTS)]]


class TestNodes:
    @pytest.mark.parametrize("stack", [1, 2, CLIENTS])
    def test_sums_of_one_node_are_those_of_one_process_bit_by_bit(self, stack):
        upload, exposed = mixed(), ("model",)
        node = Server(exposed).receive(upload, stack=stack, nodes=NODES[0])
        process = Server(exposed).receive(upload)
        assert node.ids == process.ids == tuple(range(CLIENTS))
        for mine in ("sums", "weights", "own"):
            assert bits(getattr(node, mine)) == bits(getattr(process, mine))

    def test_sums_of_several_nodes_are_those_of_one_process_up_to_rounding(self):
        several, process = (Server().receive(mixed(), nodes=nodes) for nodes in (NODES[1], None))
        assert several.sums.keys() == process.sums.keys()
        for name, value in process.sums.items():
            torch.testing.assert_close(several.sums[name], value, rtol=1e-14, atol=1e-14)
        assert bits(several.weights) == bits(process.weights)
        assert bits(several.own) == bits(process.own)

    def test_a_node_keeps_no_row_of_a_sum_and_every_row_of_what_is_own(self):
        joined, upload = Joined(), mixed()
        for begin, end in ((0, 3), (3, CLIENTS)):
            joined.take(send(cut(upload, begin, end), torch.ones(end - begin).bool()))
        sent = joined.payload
        assert sent["sums/model"].shape == (5,) and sent["weights/model"].shape == ()
        assert torch.equal(sent["own/head"], upload.own["head"])
        assert torch.equal(sent["once-own/kinds"], upload.own["kinds"])

    def test_what_a_node_has_sent_is_not_changed_by_what_others_send(self):
        joined = Joined()
        joined.take(send(of(draw(2, 3), torch.ones(2)), torch.ones(2).bool()))
        sent = joined.payload
        before, intake = bits(sent), Intake({})
        intake.take((0, 1), sent)
        intake.take((2,), send(of(draw(1, 3, seed=1), torch.ones(1)), torch.ones(1).bool()))
        assert bits(sent) == before

    @pytest.mark.parametrize("nodes", NODES)
    def test_what_is_sent_once_is_added_up_over_nodes_and_rounds(self, nodes):
        upload = mixed()
        server, process = Server(), Server()
        for _ in range(2):
            several = server.receive(upload, nodes=nodes)
            alone = process.receive(upload)
        torch.testing.assert_close(several.sums["first"], alone.sums["first"])
        assert several.weight("first") == alone.weight("first") == 28


class TestForm:
    @given(
        st.lists(st.booleans(), min_size=1, max_size=5),
        st.booleans(),
        st.sampled_from([(), ("model",), ("model", "short")]),
    )
    def test_it_is_that_of_what_is_really_sent(self, new, together, exposed):
        upload, number = mixed(), len(new)
        one = send(cut(upload, CLIENTS - 1, CLIENTS), torch.tensor([True]), exposed)
        form = form_of(one, number, sum(new), together)
        sent = send(cut(upload, 0, number), torch.tensor(new), exposed)
        if together:
            joined = Joined()
            joined.take(sent)
            sent = joined.payload
        looks = {name: (value.shape, value.dtype) for name, value in sent.items()}
        assert {name: (value.shape, value.dtype) for name, value in form.items()} == looks
        assert nbytes(form) == nbytes(sent)
        assert all(value.device.type == "meta" for value in form.values())


class TestOwn:
    def test_the_server_reads_it_client_by_client_in_their_order(self):
        upload, ids = mixed(), (1, 4, 5, 8, 9, 12, 30)
        uploads = Server().receive(upload, ids, stack=2)
        assert uploads.ids == ids
        assert uploads.own.keys() == {"head", "counts"}
        assert torch.equal(uploads.own["head"], upload.own["head"])

    def test_sums_that_somebody_reads_are_read_so_too(self):
        upload = mixed()
        read, added = Server(("model",)).receive(upload, stack=2), Server().receive(upload)
        assert torch.equal(read.own["model"], upload.sums["model"].value)
        assert "model" not in added.own and "sums/model" in send(upload, torch.ones(7).bool())
        assert bits(read.sums) == bits(added.sums) and bits(read.weights) == bits(added.weights)
        sent = send(upload, torch.ones(CLIENTS).bool(), ("model",))
        assert "sums/model" not in sent and torch.equal(
            sent["own-weights/model"], upload.sums["model"].weight
        )

    @pytest.mark.parametrize("nodes", [None, *NODES])
    def test_sums_that_are_read_may_be_sent_once(self, nodes):
        server, upload = Server(("first",)), mixed()
        for _ in range(2):
            uploads = server.receive(upload, nodes=nodes)
        expected = Server().receive(upload)
        torch.testing.assert_close(uploads.sums["first"], expected.sums["first"])
        assert uploads.weight("first") == expected.weight("first")

    def test_a_library_may_be_of_some_clients_alone(self):
        asked = []

        def take(ids, names):
            asked.append((tuple(ids), tuple(names)))
            return {name: torch.zeros(len(ids), 2) for name in names}

        library = Library((0, 3, 4, 7), take)
        some = library.only({7, 3, 9})
        assert some.ids == (3, 7)
        assert some.take(some.ids, ("head",))["head"].shape == (2, 2)
        assert asked == [((3, 7), ("head",))]
