"""Folders of CIFAR and of Fashion-MNIST as their authors distribute them, a few pictures each."""

import gzip
import struct

import numpy as np
import pytest

from fedsyn.data.inspection import inspect
from fedsyn.data.reading import read
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError


def pictures(number, seed):
    return np.random.default_rng(seed).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)


def write_cifar(path, labels, pixels):
    """Each record: the labels, then all of red, all of green and all of blue, row by row."""
    with path.open("wb") as file:
        for label, picture in zip(labels, pixels, strict=True):
            file.write(bytes(label))
            for channel in range(3):
                file.write(picture[:, :, channel].tobytes())


@pytest.fixture
def cifar_10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        write_cifar(folder / f"data_batch_{number}.bin", [[number % 2]], pictures(1, number))
    write_cifar(folder / "test_batch.bin", [[1], [0]], pictures(2, 6))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    return folder


@pytest.fixture
def cifar_100(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    write_cifar(folder / "train.bin", [[1, 2], [0, 0], [1, 1]], pictures(3, 0))
    write_cifar(folder / "test.bin", [[0, 0]], pictures(1, 1))
    (folder / "coarse_label_names.txt").write_text("fish\nflowers\n")
    (folder / "fine_label_names.txt").write_text("aquarium_fish\norchid\nrose\n")
    return folder


def idx(values):
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


@pytest.fixture
def fashion(tmp_path):
    folder = tmp_path / "fashion"
    folder.mkdir()
    for side, labels in (("train", [2, 0, 1]), ("t10k", [0, 1])):
        pixels = np.arange(len(labels) * 28 * 28).reshape(-1, 28, 28).astype(np.uint8)
        images, names = f"{side}-images-idx3-ubyte.gz", f"{side}-labels-idx1-ubyte"
        (folder / images).write_bytes(gzip.compress(idx(pixels)))
        (folder / names).write_bytes(idx(np.array(labels, dtype=np.uint8)))
    return folder


def pairs(folder, **names):
    return read(DataConfig(path=str(folder), **names))


def test_cifar_10_is_five_training_files_and_a_test_file(cifar_10):
    found = pairs(cifar_10)
    expected = np.concatenate([pictures(1, number) for number in range(1, 6)] + [pictures(2, 6)])
    np.testing.assert_array_equal(found.image, expected)
    assert found.label.tolist() == [1, 0, 1, 0, 1, 1, 0]
    assert found.split.tolist() == [False] * 5 + [True] * 2
    assert found.label_names == ("airplane", "automobile")
    assert found.text.tolist()[:2] == ["automobile", "airplane"]


def test_cifar_100_has_superclasses_as_a_column(cifar_100):
    found = pairs(cifar_100)
    np.testing.assert_array_equal(found.image[:3], pictures(3, 0))
    assert found.label.tolist() == [2, 0, 1, 0]
    assert found.label_names == ("aquarium_fish", "orchid", "rose")
    assert found.columns["coarse"].tolist() == ["flowers", "fish", "flowers", "fish"]
    assert pairs(cifar_100, label="coarse").label_names == ("fish", "flowers")


def test_fashion_mnist_is_grey_and_may_be_compressed(fashion):
    found = pairs(fashion)
    assert found.image.shape == (5, 28, 28)
    assert found.image[1, 0, :2].tolist() == [784 % 256, 785 % 256]
    assert found.label.tolist() == [2, 0, 1, 0, 1]
    assert found.split.tolist() == [False] * 3 + [True] * 2
    assert found.label_names == ("0", "1", "2")


def test_idx_labels_may_be_named(fashion):
    (fashion / "label_names.txt").write_text("T-shirt/top\nTrouser\nAnkle boot\n")
    assert pairs(fashion).text.tolist()[:2] == ["Ankle boot", "T-shirt/top"]


def test_a_folder_can_be_inspected_like_a_file(cifar_10):
    summaries = {summary.name: summary for summary in inspect(cifar_10)}
    assert summaries["image"].shape == (7, 32, 32, 3)
    assert summaries["label"].high == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "data_batch_3.bin").unlink(), r"data_batch_3\.bin' does not exist, but"),
        (lambda f: (f / "test_batch.bin").write_bytes(b"x" * 3072), "has 3072 bytes; expected rec"),
        (
            lambda f: (f / "test_batch.bin").write_bytes(b""),
            "has 0 bytes; expected records of 3073",
        ),
        (lambda f: (f / "batches.meta.txt").write_text("one"), "names 1 labels; .* up to label 1"),
    ],
)
def test_what_is_wrong_with_cifar_is_named(cifar_10, change, message):
    change(cifar_10)
    with pytest.raises(DataError, match=message):
        pairs(cifar_10)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-labels-idx1-ubyte", b"", "is not an IDX file of unsigned bytes with 1 axes"),
        ("train-labels-idx1-ubyte", idx(np.zeros((3, 1), np.uint8)), "bytes with 1 axes"),
        ("train-labels-idx1-ubyte", idx(np.zeros(3, np.uint8))[:-1], r"has 2 values; .* \[3\]"),
        ("train-labels-idx1-ubyte", idx(np.zeros(2, np.uint8)), "has 3 train pictures and 2"),
        ("t10k-images-idx3-ubyte.gz", b"not gzip", "cannot be read: Not a gzipped file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_idx_set_is_named(fashion, name, data, message):
    (fashion / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        pairs(fashion)


def test_another_folder_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; expected a file, or .* 'data_batch_1\.bin'"):
        pairs(tmp_path)
