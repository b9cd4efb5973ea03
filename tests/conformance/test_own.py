"""This package's own plug-ins keep what is promised of their families."""

import csv

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from fedsyn import conformance
from fedsyn.data.readers import READERS
from fedsyn.encoders import TEACHERS
from fedsyn.federation.selection import SELECTIONS
from fedsyn.methods import METHODS
from fedsyn.methods.fedexp import FEDEXP
from fedsyn.methods.scaffold import SCAFFOLD
from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.pairs.cirh import CIRH
from fedsyn.objectives.pairs.dgcpn import DGCPN
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.filters import FILTERS
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.steps import SERVER_STEPS
from fedsyn.tasks import TASKS

QUICK = {FEDEXP.name, SCAFFOLD.name, CIRH.name, DGCPN.name}  # the others of these two are slow


def every(table):
    """A parameter for each plug-in of a table."""
    return [
        pytest.param(plugin, id=plugin.name, marks=() if plugin.name in QUICK else pytest.mark.slow)
        for plugin in table
    ]


@pytest.mark.parametrize("plugin", every(METHODS))
def test_methods(plugin):
    conformance.check_method(plugin)


@pytest.mark.parametrize("plugin", every(OBJECTIVES))
def test_objectives(plugin):
    conformance.check_objective(plugin)


@pytest.mark.slow
@pytest.mark.parametrize("plugin", list(TASKS), ids=TASKS.names)
def test_tasks(plugin):
    conformance.check_task(plugin)


@pytest.mark.parametrize("plugin", list(GENERATORS), ids=GENERATORS.names)
def test_generators(plugin):
    conformance.check_generator(plugin)


@pytest.mark.parametrize("plugin", list(FILTERS), ids=FILTERS.names)
def test_filters(plugin):
    conformance.check_filter(plugin)


@pytest.mark.parametrize("plugin", list(SERVER_STEPS), ids=SERVER_STEPS.names)
def test_server_steps(plugin):
    conformance.check_server_step(plugin)


@pytest.mark.parametrize("plugin", list(SELECTIONS), ids=SELECTIONS.names)
def test_selections(plugin):
    conformance.check_selection(plugin)


@pytest.mark.parametrize(
    ("clusters", "directions"),
    [("all", "pooled"), ("own", "pooled"), ("own", "own"), ("own", "none")],
)
def test_synthesis(clusters, directions):
    sections = {"enabled": True, "share": "clients", "min_cluster": 3}
    own = {"clusters": clusters, "directions": directions, "generator": "wgan-gp"}
    conformance.check_extension(SYNTHESIS, synthesis={**sections, **own})


@pytest.mark.slow
def test_the_embedded_teacher():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    conformance.check_teacher(TEACHERS.default, pixels)


@pytest.fixture(scope="module")
def columns():
    """Ninety pairs of features."""
    draw = np.random.default_rng(0)
    return {
        "image": draw.normal(size=(90, 4)),
        "text": draw.normal(size=(90, 3)),
        "label": np.arange(90) % 3,
        "split": np.where(np.arange(90) % 5 == 0, "test", "train"),
    }


def written(name, columns, folder):
    """A file that a reader of this name reads."""
    path = folder / f"pairs.{name}"
    if name == "npz":
        np.savez(path, **columns)
    elif name == "mat":
        savemat(path, columns | {"split": (columns["split"] == "test").astype(float)})
    elif name == "hdf5":
        with h5py.File(path, "w") as file:
            for key, value in columns.items():
                file[key] = value.astype("S") if value.dtype.kind == "U" else value
    elif name == "parquet":
        lists = {key: list(value) for key, value in columns.items()}
        pq.write_table(pa.table(lists), path)
    elif name == "official":
        return cifar(folder)
    return path


def cifar(folder):
    """CIFAR-10's folder, with a few pictures in each of its files."""
    draw = np.random.default_rng(0)
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        pixels = draw.integers(0, 256, (16, 3072), dtype=np.uint8)
        label = (np.arange(16, dtype=np.uint8) % 10)[:, None]
        (folder / name).write_bytes(np.hstack([label, pixels]).tobytes())
    return folder


TABLES = {"npz": "auto", "mat": "mat", "hdf5": "hdf5", "parquet": "parquet", "official": "official"}


@pytest.mark.parametrize("form", TABLES)
def test_readers(form, columns, tmp_path):
    (tmp_path / "data").mkdir()
    path = written(form, columns, tmp_path / "data")
    conformance.check_reader(READERS.find(TABLES[form]), path)


def test_the_reader_of_pictures_named_in_a_table(tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "label"])
        for number in range(60):
            pixels = draw.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
            table.writerow([f"{number}.png", f"picture {number % 3}", number % 3])
    conformance.check_reader(READERS.find("csv"), tmp_path / "pairs.csv", data={"size": 16})
