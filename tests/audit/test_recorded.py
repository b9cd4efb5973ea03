"""What was received, from its record: of whom, of which kind, and in which round."""

import pytest
import torch
from safetensors.torch import save_file

from fedsyn.audit.recorded import Recorded
from fedsyn.audit.totals import together
from fedsyn.core.wire import Sum, Upload, client_of, send
from fedsyn.errors import RunError


def record(folder, number, **tensors):
    """Write a round's record: names have dots where slashes belong."""
    (folder / "uploads").mkdir(exist_ok=True)
    named = {name.replace(".", "/"): value for name, value in tensors.items()}
    save_file(named, folder / "uploads" / f"round-{number}.safetensors")


def sent(ids, new):
    """What clients send of one part: a sum, one that is sent once, and of their own both ways."""
    ids = torch.tensor(ids)
    value = ids[:, None] + torch.tensor([0.5, 0.25])
    sums = {"model": Sum(value, 1.0 + ids.double()), "base": Sum(2 * value, 1.0 + ids.double())}
    own = {"mean": value + 10, "count": 7 * ids}
    upload = Upload(sums, own, once=frozenset(["base", "count"]), half=frozenset(["mean"]))
    return send(upload, torch.tensor(new))


def by_client(ids, new):
    """The same as it is recorded of clients apart."""
    stacked = sent(ids, new)
    return {
        f"{client}/part/{name}": value
        for place, client in enumerate(ids)
        for name, value in client_of(stacked, place, torch.tensor(new)).items()
    }


def write(folder, number, tensors):
    (folder / "uploads").mkdir(exist_ok=True)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, folder / "uploads" / f"round-{number}.safetensors")


def test_sums_and_own_parts_are_read_as_they_were_sent(tmp_path):
    write(tmp_path, 1, by_client([0, 2], [True, True]))
    write(tmp_path, 2, by_client([1, 2], [True, False]) | {"1/report/pairs": torch.ones(1)})
    found = Recorded.of(tmp_path)
    assert found.ids == (0, 1, 2) and list(found.files) == [1, 2]
    assert [name[1:] for name in found.names] == [
        ("own", "count"), ("own", "mean"), ("sums", "base"), ("sums", "model"),
    ]  # fmt: skip
    first, second = found.totals("part", "model")
    assert [one.ids for one in first] == [{0}, {2}] and first[0].round_number == 1
    assert [one.weight for one in second] == [2, 3]
    assert together(second).mean.tolist() == pytest.approx(
        [(2 * 1.5 + 3 * 2.5) / 5, (2 * 1.25 + 3 * 2.25) / 5]
    )
    base = list(found.totals("part", "base"))
    assert [[one.ids for one in each] for each in base] == [[{0}, {2}], [{1}]]
    own = found.own("part")
    assert [own[client]["count"].item() for client in (0, 1, 2)] == [0, 7, 14]
    assert own[1]["mean"].tolist() == [11.5, 11.25] and own[1]["mean"].dtype == torch.float32
    assert not any(one.own for each in (first, second) for one in each)


def test_what_travels_together_is_of_all_who_sent_it(tmp_path):
    value = torch.tensor([3.0, 4.0], dtype=torch.float64)
    rows = torch.arange(2.0)[:, None]
    write(tmp_path, 3, {
        "0+5/part/sums/model": value, "0+5/part/weights/model": torch.tensor(2.0).double(),
        "0+5/part/own/mean": rows, "0+5/moments/sums/count": torch.tensor(9.0).double(),
    })  # fmt: skip
    found = Recorded.of(tmp_path)
    ((one,),) = found.totals("part", "model")
    assert one.ids == {0, 5} and one.mean.tolist() == [1.5, 2.0]
    ((count,),) = found.totals("moments", "count")  # without a weight
    assert (count.value.item(), count.weight) == (9, 1)
    assert {c: mine["mean"].item() for c, mine in found.own("part").items()} == {0: 0, 5: 1}
    assert found.size(("part", "sums", "model")) == 1 and not found.begins


def test_a_sum_that_somebody_looks_at_is_not_hidden_by_masks(tmp_path):
    upload = Upload({"model": Sum(torch.ones(1, 2), torch.ones(1).double())})
    stacked = send(upload, torch.tensor([True]), exposed=["model"])
    write(tmp_path, 1, {f"4/part/{name}": value for name, value in stacked.items()})
    ((one,),) = Recorded.of(tmp_path).totals("part", "model")
    assert one.own and one.ids == {4}


def test_without_a_client_a_sum_is_of_the_others(tmp_path):
    write(tmp_path, 1, by_client([0, 1, 2], [True] * 3))
    (arrived,) = Recorded.of(tmp_path).totals("part", "model")
    rest = together(arrived).without(arrived[1])
    assert rest.ids == {0, 2} and rest.weight == 4
    assert rest.mean.tolist() == pytest.approx([(0.5 + 3 * 2.5) / 4, (0.25 + 3 * 2.25) / 4])


@pytest.mark.parametrize(
    "tensors",
    [
        {"nobody/part/sums/model": torch.ones(1, 2)},
        {"0/part/own/mean": torch.ones(2, 2)},
        {"0/part/sums/model": torch.ones(2, 2), "0/part/weights/model": torch.ones(1)},
    ],
)
def test_a_damaged_record_is_named(tmp_path, tensors):
    write(tmp_path, 1, tensors)
    with pytest.raises(RunError, match=r"round-1\.safetensors"):
        found = Recorded.of(tmp_path)
        list(found.totals("part", "model"))
        found.own("part")
