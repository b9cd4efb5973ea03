from dataclasses import replace

import numpy as np
import pytest

from fedsyn.data import local
from fedsyn.data.local import agree, files_of_silos, local_data
from fedsyn.data.settings import Needs
from fedsyn.errors import ConfigError, DataError

STREAM = np.random.default_rng(0)
PIXELS = STREAM.integers(0, 256, size=(60, 16, 16), dtype=np.uint8)
TEXT = np.array([f"text {row}" for row in range(60)])
SPLIT = np.where(np.arange(60) % 4 == 0, "test", "train")


@pytest.fixture
def write(tmp_path):
    """``write("name", image=...)``: a file of 60 pairs, with other arrays where given."""

    def write(name="pairs", **changes):
        arrays = {"image": PIXELS, "text": TEXT, "split": SPLIT, **changes}
        np.savez(tmp_path / f"{name}.npz", **{k: v for k, v in arrays.items() if v is not None})
        return tmp_path / f"{name}.npz"

    return write


@pytest.fixture
def make(configure):
    """The settings of three clients."""

    def make(path="", data=None, **partition):
        small = {"scheme": "iid", "clients": 3, "min_size": 2, "clusters": 3}
        return configure(
            data={"path": str(path), "buckets": 16, **(data or {})},
            partition={**small, **partition},
        )

    return make


def rows(held, silo, field):
    """The texts of a silo's rows, which tell who they are."""
    return held.pairs.text[getattr(silo, field)].tolist()


@pytest.mark.parametrize("scheme", ["iid", "dirichlet-clusters"])
def test_a_node_keeps_the_rows_of_its_clients_alone(make, write, scheme):
    settings = make(write(), scheme=scheme, missing_text=0.2)
    whole, node = local_data(settings), local_data(settings, [2, 0], test=False)
    assert node.clients == (0, 2) and len(node.test) == 0
    assert len(node.pairs) == sum(len(whole.silos[client].training) for client in (0, 2))
    assert len(node.image.descriptors) == node.text.descriptors.shape[0] == len(node.pairs)
    for client, (there, here) in enumerate(zip(whole.silos, node.silos, strict=True)):
        for field in ("pairs", "holdout", "images", "texts"):
            expected = [] if client == 1 else rows(whole, there, field)
            assert rows(node, here, field) == expected
        assert len(here.test) == 0


def test_a_server_keeps_the_test_rows_and_whose_they_are(make, write):
    settings = make(write())
    whole, server = local_data(settings), local_data(settings, ())
    assert server.clients == () and server.pairs.text.tolist() == TEXT[SPLIT == "test"].tolist()
    assert np.array_equal(server.test, np.arange(15))
    for there, here in zip(whole.silos, server.silos, strict=True):
        assert rows(server, here, "test") == rows(whole, there, "test") != []
        assert len(here.training) == 0


def test_pictures_of_others_are_described_only_to_cluster_them(make, write, monkeypatch):
    seen = []
    hog = local.hog
    monkeypatch.setattr(local, "hog", lambda pixels: seen.append(len(pixels)) or hog(pixels))
    local_data(make(write()), [1], test=False)
    assert seen == [15]
    local_data(make(write(), scheme="lineage"), (), test=True)
    assert seen[1:] == [60, 15]


def test_a_node_without_clients_holds_nothing(make, write):
    node = local_data(make(write()), (), test=False)
    assert len(node.pairs) == 0 and node.facts == local_data(make(write())).facts


@pytest.mark.parametrize("client", [-1, 3])
def test_clients_that_there_are_not_are_refused(make, write, client):
    with pytest.raises(DataError, match=rf"client {client} is .* expected ids from 0 to 2"):
        local_data(make(write()), [client])
    with pytest.raises(DataError, match=rf"client {client} is .* expected ids from 0 to 2"):
        files_of_silos(make(), {client: write()})


def test_files_hold_the_training_pairs_of_their_clients(make, write):
    files = {2: write("b", split=None), 0: write("a", text=np.char.add("other ", TEXT))}
    node = files_of_silos(make(), files)
    assert node.clients == (0, 2) and len(node.test) == 0
    expected = [f"other text {row}" for row in range(60) if row % 4], [], TEXT.tolist()
    for silo, texts in zip(node.silos, expected, strict=True):
        assert rows(node, silo, "training") == texts
        assert len(silo.holdout) == round(0.1 * len(texts)) and len(silo.test) == 0


def test_files_lose_what_the_overlays_take(make, write):
    settings = make(missing_image=0.4, single_modality=0.3)
    node = files_of_silos(settings, {0: write("a", split=None), 1: write("b", split=None)})
    lost = round(0.4 * (60 - 6))  # of those not held out
    assert len(node.silos[0].texts) == lost and len(node.silos[0].images) == 0
    assert len(node.silos[1].images) == 60 - lost and len(node.silos[1].pairs) == 0


def test_a_file_of_one_client_stays_mapped(make, write):
    node = files_of_silos(make(), {1: write(split=None, image=STREAM.normal(size=(60, 4)))})
    assert isinstance(node.pairs.image, np.memmap)


def test_a_client_needs_neither_labels_nor_test_rows(make, write):
    settings = make(data={"label": "kind"})
    node = files_of_silos(settings, {0: write(split=np.full(60, "train"))})
    assert node.pairs.label is None and len(node.pairs) == 60
    with pytest.raises(DataError, match=r'\'split\' of \'.*pairs.npz\' has no "train" rows'):
        files_of_silos(settings, {0: write(split=np.full(60, "test"))})


def test_pictures_that_a_clients_csv_names_lie_beside_it(make, tmp_path):
    from PIL import Image

    Image.fromarray(PIXELS[0]).save(tmp_path / "0.png")
    (tmp_path / "pairs.csv").write_text("image,text\n0.png,one\n")
    settings = make(data={"images": "/nowhere"})
    assert len(files_of_silos(settings, {0: tmp_path / "pairs.csv"}).pairs) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": PIXELS[:, 2:]}, r"b.npz' has image rows of shape \[14, 16\] .*a.npz' has \[16"),
        ({"image": PIXELS[:, 0].astype(float)}, r"b.npz' has image rows of shape \[16\]"),
        ({"text": PIXELS[:, 0].astype(float)}, r"b.npz' has text rows of shape \[16\] .* has \[\]"),
        ({"text": None}, r"data.text = 'text' is not an array of '.*b.npz'"),
    ],
)
def test_files_of_a_node_have_one_form(make, write, changes, message):
    with pytest.raises(DataError, match=message):
        files_of_silos(make(), {0: write("a"), 1: write("b", **changes)})


def test_every_row_of_a_servers_file_is_tested(make, write):
    server = local.test_file(make(), write(split=np.full(60, "test")))
    assert np.array_equal(server.test, np.arange(60)) and server.clients == ()
    assert [len(silo.training) for silo in server.silos] == [0, 0, 0]
    assert [len(silo.test) for silo in server.silos] == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": PIXELS[:, 2:]}, r"image.size = '14 x 16 x 1' and the .* '16 x 16 x 1'"),
        ({"image": PIXELS[..., None].repeat(3, -1)}, r"image.width = 624 and the .* have 576"),
        ({"text": np.ones((60, 5))}, r"text.form = 'features' and the test pairs have 'strings'"),
    ],
)
def test_nodes_and_the_server_have_pairs_of_one_form(make, write, changes, message):
    server = local.test_file(make(), write("test"))
    agree(server, files_of_silos(make(), {0: write("a")}).facts, "node 7")
    with pytest.raises(DataError, match=f"^node 7 has pairs with {message}"):
        agree(server, files_of_silos(make(), {0: write("a", **changes)}).facts, "node 7")


def test_public_pairs_are_no_clients_and_everybody_holds_them(make, write):
    settings = make(write(), data={"public": 0.4})
    whole = local_data(settings)
    public = whole.pairs.text[whole.public].tolist()
    assert len(public) == round(0.4 * 45) and set(SPLIT[whole.public]) == {"train"}
    mine = np.concatenate([silo.training for silo in whole.silos])
    assert np.array_equal(np.union1d(mine, whole.public), np.flatnonzero(SPLIT == "train"))
    assert not np.intersect1d(mine, whole.public).size
    for held in (local_data(settings, [1], test=False), local_data(settings, ())):
        assert held.pairs.text[held.public].tolist() == public


def test_public_pairs_are_the_same_for_every_seed(make, write):
    settings = make(write(), data={"public": 0.4})
    other = replace(settings, seed=7)
    assert np.array_equal(local_data(settings).public, local_data(other).public)


@pytest.mark.parametrize(("key", "value"), [("public", 0.4), ("questions", 9)])
def test_silos_with_files_of_their_own_have_no_public_pairs_or_questions(make, write, key, value):
    with pytest.raises(ConfigError, match=rf"data.{key} = {value} is of the pairs .* no such"):
        files_of_silos(make(data={key: value}), {0: write()})


def test_files_keep_labels_that_are_learnt_from(make, write):
    settings = replace(make(), needs=Needs(labels=True))
    kinds = np.arange(60) % 3
    first, second = write("a", label=kinds), write("b", label=kinds[::-1].copy())
    node = files_of_silos(settings, {0: first, 1: second})
    train = SPLIT == "train"
    expected = np.concatenate([kinds[train], kinds[::-1][train]])
    assert node.pairs.label.tolist() == expected.tolist()
    assert node.facts["labels"] == "0, 1, 2"
    other = write("c", label=np.arange(60) % 4)
    with pytest.raises(DataError, match=r"c.npz' has labels 0, 1, 2, 3 and '.*a.npz' has 0, 1, 2;"):
        files_of_silos(settings, {0: first, 1: other})


def test_a_long_tail_is_of_training_rows_and_the_same_for_every_run_seed(write, make):
    settings = make(write(label=np.repeat([0, 1, 2], 20)), data={"holdout": 0.0}, imbalance=15.0)
    one, other = (local_data(replace(settings, seed=seed)) for seed in (0, 1))
    here, there = (np.sort(np.concatenate([s.pairs for s in each.silos])) for each in (one, other))
    assert np.bincount(one.pairs.label[here]).tolist() == [15, 4, 1]
    assert np.array_equal(here, there)
    assert np.array_equal(one.test, np.flatnonzero(SPLIT == "test"))


KINDS = np.where(np.arange(60) % 5 == 0, -1, np.arange(60) % 3)
CLASSIFICATION = {
    "task": {"name": "image_classification"},
    "partition": {"scheme": "iid", "clients": 3, "min_size": 2},
}


def test_rows_without_a_label_are_nobodys_where_labels_are_learnt(write, configure):
    path = write(label=KINDS)
    whole = local_data(configure(data={"path": str(path)}, **CLASSIFICATION))
    mine = np.sort(np.concatenate([silo.training for silo in whole.silos]))
    assert np.array_equal(mine, np.flatnonzero((SPLIT == "train") & (KINDS >= 0)))
    assert np.array_equal(whole.test, np.flatnonzero(SPLIT == "test"))
    node = files_of_silos(configure(**CLASSIFICATION), {1: path})
    assert len(node.silos[1].training) == len(mine)
    with pytest.raises(DataError, match=r"'image_classification' learns from labels and .* none"):
        local_data(configure(data={"path": str(write("none"))}, **CLASSIFICATION))


def test_tasks_of_pictures_see_pixels_as_they_are(write, configure):
    data = {"path": str(write(label=KINDS))}
    found = local_data(configure(data=data, **CLASSIFICATION)).image.descriptors
    assert np.array_equal(found, (PIXELS.reshape(60, -1) / np.float32(127.5)) - 1)
    with pytest.raises(ConfigError, match=r"data\.standardize = true changes pixels, and task"):
        local_data(configure(data=data | {"standardize": True}, **CLASSIFICATION))
