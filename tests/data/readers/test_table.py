"""What reads files: told by their ending, by its name, or brought along."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from fedsyn.data import local
from fedsyn.data.inspection import inspect
from fedsyn.data.readers import READERS
from fedsyn.data.readers.base import Reader, Stored
from fedsyn.data.reading import pairs_of, read
from fedsyn.data.sections import DataConfig
from fedsyn.data.settings import DataSettings
from fedsyn.errors import ConfigError, DataError, UnsafeDataError
from fedsyn.federation.config import data_settings, load
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Field, Section

IMAGE = np.arange(40.0).reshape(20, 2)
TEXT = np.array([f"text {row}" for row in range(20)])


class LineOptions(Section):
    mark: str = Field("|", description="between numbers and strings")


def _open_lines(path, config):
    mark = config.of(LineOptions).mark
    rows = [line.split(mark) for line in path.read_text().splitlines()]
    return {
        "image": [[float(number) for number in row[0].split()] for row in rows],
        "text": np.array([row[1] for row in rows]),
    }


LINES = Reader(name="lines", open=_open_lines, endings=(".lines",), options={FLAT: LineOptions})


@pytest.fixture
def lines(tmp_path):
    """A file that only `LINES` reads."""

    def write(mark="|", name="pairs.lines"):
        rows = [f"{a} {b}{mark}{text}" for (a, b), text in zip(IMAGE, TEXT, strict=True)]
        (tmp_path / name).write_text("\n".join(rows))
        return tmp_path / name

    return write


def test_every_ending_tells_one_reader():
    endings = [ending for reader in READERS for ending in reader.endings]
    assert len(endings) == len(set(endings)) and all(one.startswith(".") for one in endings)
    assert [reader.name for reader in READERS if reader.folders] == ["official"]
    assert READERS.default.name == "auto" and not READERS.default.endings


def test_an_ending_counts_whatever_its_case(tmp_path):
    np.savez(tmp_path / "small.npz", image=IMAGE, text=TEXT)
    path = (tmp_path / "small.npz").rename(tmp_path / "LARGE.NPZ")
    assert np.array_equal(read(DataConfig(path=str(path))).image, IMAGE)


def test_a_named_reader_reads_whatever_the_ending_is(tmp_path):
    np.savez(tmp_path / "pairs.npz", image=IMAGE, text=TEXT)
    path = (tmp_path / "pairs.npz").rename(tmp_path / "pairs.bin")
    with pytest.raises(DataError, match=r"unknown extension '\.bin'.*\.npz.*or data\.reader"):
        read(DataConfig(path=str(path)))
    own = data_settings(load(None, [f"data.path={path}", "data.reader=npz", "data.cache="]))
    assert own.reader is READERS.find("npz")
    assert np.array_equal(local.load_pairs(own).image, IMAGE)
    with pytest.raises(DataError, match=r"pairs\.bin' is damaged or not a \.bin file"):
        read(DataConfig(path=str(path)), reader=READERS.find("hdf5"))


def test_an_unknown_reader_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"data\.reader = 'npy' is not known; .*'npz'.*'mat'"):
        load(None, ["data.reader=npy"])


def test_a_reader_may_be_brought_along_with_options_of_its_own(lines):
    overrides = [f"data.path={lines('#')}", "data.mark=#", "data.cache=", "partition.clients=2"]
    overrides += ["partition.scheme=iid", "partition.min_size=2"]
    own = data_settings(load(None, overrides, reader=LINES))
    pairs = local.local_data(own).pairs
    assert np.array_equal(pairs.image, IMAGE) and np.array_equal(pairs.text, TEXT)
    assert pairs.name == "pairs"
    with pytest.raises(ConfigError, match=r"unknown key 'data\.mark'"):
        load(None, overrides)


def test_every_way_to_hold_pairs_goes_by_the_same_reader(lines):
    config = load(None, ["data.cache=", "partition.clients=2"], reader=LINES)
    own = data_settings(config)
    node = local.files_of_silos(own, {1: lines()})
    assert len(node.silos[1].training) == 20
    server = local.test_file(own, lines(name="test.lines"))
    assert len(server.test) == 20
    local.agree(server, node.facts, "node")


def test_what_a_reader_of_ones_own_meets_is_said_in_one_sentence(lines, tmp_path):
    with pytest.raises(DataError, match=r"none\.lines' does not exist"):
        LINES.arrays(tmp_path / "none.lines", DataConfig())
    options = LineOptions(mark="?")
    with pytest.raises(DataError, match=r"pairs\.lines' is damaged or not a \.lines file: could"):
        LINES.arrays(lines(), options)

    def failing():
        raise zipfile.BadZipFile("no end\nof it")

    late = replace(LINES, open=lambda path, config: {"image": Stored("f", (1,), True, failing)})
    stored = late.arrays(lines(), options)
    with pytest.raises(DataError, match=r"damaged or not a \.lines file: no end$"):
        stored["image"].read()

    def unsafe():
        raise UnsafeDataError("too large")

    harmful = replace(LINES, open=lambda path, config: {"x": Stored("f", (1,), True, unsafe)})
    with pytest.raises(UnsafeDataError, match=r"^too large$"):
        harmful.arrays(lines(), options)["x"].read()


def test_arrays_of_any_reader_are_summarised(lines):
    path = lines()
    own = replace(LINES, open=lambda path, config: _open_lines(path, LineOptions()))
    image, text = inspect(path, own)
    assert (image.name, image.shape) == ("image", (20, 2)) and "text 0" in text.example
    with pytest.raises(DataError, match=r"unknown extension '\.lines'"):
        inspect(path)


class TestArraysInMemory:
    def test_they_are_read_as_those_of_a_file_would_be(self, tmp_path):
        label, split = np.arange(20) % 3, np.where(np.arange(20) % 4, "train", "test")
        arrays = {"I": IMAGE, "text": TEXT, "label": label, "split": split, "site": label}
        np.savez(tmp_path / "pairs.npz", **arrays)
        config = DataConfig(path=str(tmp_path / "pairs.npz"), image="I")
        there, here = read(config), pairs_of(arrays, config)
        for name in ("image", "text", "label", "split"):
            assert np.array_equal(getattr(here, name), getattr(there, name))
        assert here.label_names == there.label_names
        assert here.columns.keys() == there.columns.keys()
        assert pairs_of(there, config) is there

    def test_lists_are_arrays_too(self):
        pairs = pairs_of({"image": IMAGE.tolist(), "text": TEXT.tolist()}, DataConfig())
        assert np.array_equal(pairs.image, IMAGE) and np.array_equal(pairs.text, TEXT)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"text": TEXT}, r"data\.image = 'image' is not an array of the arrays that were"),
            ({"image": IMAGE, "text": TEXT[:3]}, r"array 'text' of the arrays .* has 3 rows"),
            ({"image": IMAGE * np.nan, "text": TEXT}, r"expected finite numbers"),
            ({"image": 7.0, "text": TEXT}, r"passed holds no pairs: array 'image' has no rows"),
        ],
    )
    def test_what_is_wrong_is_named(self, arrays, message):
        with pytest.raises(DataError, match=message):
            pairs_of(arrays, DataConfig())


def test_without_a_run_pairs_are_told_by_the_ending():
    assert DataSettings().reader is READERS.default
