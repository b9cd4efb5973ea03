"""Sparse matrices in files: the same as dense ones, and refused where they contradict themselves.

Hostile files are read by a process of their own: one that harms its reader must not end the tests.
"""

import struct
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
from scipy.sparse import coo_array, csc_array, csr_array, dia_array

from fedsyn.data import cache, sparse
from fedsyn.data.features import VERSION
from fedsyn.data.inspection import inspect
from fedsyn.data.local import local_data
from fedsyn.data.readers import READERS
from fedsyn.data.reading import read
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError, UnsafeDataError

DENSE = np.array([[1.0, 0, 0], [0, 0, -2.5], [0, 0, 0], [4.0, 0, 3.0], [0, 0, 7.0]])
SOUND = csc_array(DENSE)
FAR = 300_000_000  # so far away that writing there is no silent accident
INT8, UINT8, INT32, UINT32, DOUBLE = 1, 2, 5, 6, 9  # types of elements in MATLAB's version 5


def arrays_of(path):
    """Of the reader that the file's ending tells."""
    return READERS.default.arrays(path, DataConfig())


def element(kind: int, payload: bytes) -> bytes:
    return struct.pack("<II", kind, len(payload)) + payload.ljust(-(-len(payload) // 8) * 8, b"\0")


def matlab5(path, shape, indices, pointers, values, imaginary=None, logical=False, packed=False):
    """A file of version 5 with one sparse matrix `x`, whatever its parts say."""
    flags = 5 | (0x0800 if imaginary is not None else 0) | (0x0200 if logical else 0)
    kind, dtype = (UINT8, "u1") if logical else (DOUBLE, "<f8")
    body = element(UINT32, struct.pack("<II", flags, len(indices)))
    body += element(INT32, np.array(shape, "<i4").tobytes()) + element(INT8, b"x")
    body += element(INT32, np.array(indices, "<i4").tobytes())
    body += element(INT32, np.array(pointers, "<i4").tobytes())
    body += element(kind, np.array(values, dtype).tobytes())
    if imaginary is not None:
        body += element(DOUBLE, np.array(imaginary, "<f8").tobytes())
    matrix = struct.pack("<II", 14, len(body)) + body
    if packed:
        small = zlib.compress(matrix)
        matrix = struct.pack("<II", 15, len(small)) + small
    header = b"MATLAB 5.0 MAT-file".ljust(124, b" ") + struct.pack("<HH", 0x0100, 0x4D49)
    path.write_bytes(header + matrix)
    return path


def matlab4(path, table):
    """A file of version 4 with one sparse matrix `x`: rows of indices from 1 and values."""
    table = np.array(table, "<f8")
    header = struct.pack("<5i", 2, *table.shape, 0, 2)
    path.write_bytes(header + b"x\0" + table.tobytes("F"))
    return path


def matlab73(path, rows, kind=b"double", **parts):
    """What MATLAB's `save -v7.3` makes of a sparse matrix `x`, and a dense one `y`."""
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("x")
        group.attrs["MATLAB_class"] = np.bytes_(kind)
        group.attrs["MATLAB_sparse"] = rows
        for name, part in parts.items():
            if isinstance(part, tuple):  # declared at this length, and nothing there
                group.create_dataset(name, shape=part, dtype=np.uint64, chunks=(1024,))
            else:
                group[name] = part
        file["y"] = DENSE.T
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    return path


def whole(numbers) -> np.ndarray:
    return np.array(numbers, np.uint64)


def parts(matrix: csc_array) -> dict[str, np.ndarray]:
    return {"data": matrix.data, "ir": whole(matrix.indices), "jc": whole(matrix.indptr)}


def stored(path) -> np.ndarray:
    found = arrays_of(path)["x"]
    values = found.read()
    assert found.shape == values.shape
    return values


# The same as the dense matrix.


@pytest.mark.parametrize("packed", [False, True])
def test_version_5(tmp_path, packed):
    path = tmp_path / "p.mat"
    values = SOUND.indices, SOUND.indptr, SOUND.data
    assert np.array_equal(stored(matlab5(path, DENSE.shape, *values, packed=packed)), DENSE)


@pytest.mark.parametrize("kind", [csc_array, csr_array, coo_array, dia_array])
@pytest.mark.parametrize("version", ["4", "5"])
def test_every_format_of_scipy_that_is_saved(tmp_path, kind, version):
    scipy.io.savemat(tmp_path / "p.mat", {"x": kind(DENSE)}, format=version)
    assert np.array_equal(stored(tmp_path / "p.mat"), DENSE)


def test_version_73(tmp_path):
    path = matlab73(tmp_path / "p.mat", np.uint64(5), **parts(SOUND))
    assert np.array_equal(stored(path), DENSE)
    assert set(arrays_of(path)) == {"x", "y"}  # not the parts
    assert np.array_equal(arrays_of(path)["y"].read(), DENSE)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int16])
def test_version_73_keeps_the_type_that_it_has(tmp_path, dtype):
    matrix = csc_array(np.abs(DENSE).astype(dtype))
    kind = b"logical" if dtype == np.uint8 else b"single"
    found = stored(matlab73(tmp_path / "p.mat", 5, kind, **parts(matrix)))
    assert found.dtype == dtype and np.array_equal(found, matrix.toarray())


def test_logical_matrices_of_version_5(tmp_path):
    logical = matlab5(tmp_path / "p.mat", (3, 2), [0, 2], [0, 1, 2], [1, 1], logical=True)
    assert np.array_equal(stored(logical), [[1, 0], [0, 0], [0, 1]])


def test_values_beyond_the_last_pointer_are_room_to_spare(tmp_path):
    path = tmp_path / "p.mat"
    matlab5(path, (3, 2), [0, 2, 77, 99], [0, 1, 2], [1, 2, 8, 9])
    assert np.array_equal(stored(path), [[1, 0], [0, 0], [0, 2]])
    spare = {"ir": whole([0, 2, 77]), "jc": whole([0, 1, 2]), "data": np.arange(1.0, 4)}
    assert np.array_equal(stored(matlab73(path, 3, **spare)), [[1, 0], [0, 0], [0, 2]])


def test_matrices_without_any_value(tmp_path):
    path = tmp_path / "p.mat"
    assert np.array_equal(stored(matlab5(path, (3, 2), [], [0, 0, 0], [])), np.zeros((3, 2)))
    # MATLAB leaves `ir` and `data` out.
    assert np.array_equal(stored(matlab73(path, 3, jc=whole([0, 0, 0]))), np.zeros((3, 2)))
    assert stored(matlab73(path, 3, jc=whole([0]))).shape == (3, 0)


@pytest.mark.parametrize("shape", [(5, 1), (1, 5)])
def test_vectors_lose_their_unit_axis(tmp_path, shape):
    vector = csc_array(np.array([0, 1.0, 0, 2.0, 0]).reshape(shape))
    path = tmp_path / "p.mat"
    scipy.io.savemat(path, {"x": vector})
    assert stored(path).tolist() == [0, 1, 0, 2, 0]
    assert stored(matlab73(path, shape[0], **parts(vector))).tolist() == [0, 1, 0, 2, 0]


def test_pairs_are_read_from_version_73(tmp_path):
    path = matlab73(tmp_path / "p.mat", 5, **parts(SOUND))
    pairs = read(DataConfig(path=str(path), image="x", text="y"))
    assert np.array_equal(pairs.image, DENSE) and np.array_equal(pairs.text, DENSE)


def test_complex_matrices_are_no_features(tmp_path):
    path = matlab5(tmp_path / "5.mat", (3, 2), [0, 2], [0, 1, 2], [1, 1], imaginary=[1, 1])
    with pytest.raises(DataError, match=r"array 'x' .* has dtype complex128; expected real"):
        read(DataConfig(path=str(path), image="x", text="x"))
    numbers = np.zeros(2, dtype=[("real", float), ("imag", float)])
    values = {"data": numbers, "ir": whole([0, 2]), "jc": whole([0, 1, 2])}
    path = matlab73(tmp_path / "73.mat", 3, **values)
    with pytest.raises(DataError, match=r"array 'x' .* sparse matrix of .*; expected real numbers"):
        read(DataConfig(path=str(path), image="x", text="y"))
    assert {row.name for row in inspect(path)} == {"x", "y"}  # nothing is wrong with the file


# Refused before anything is made of them.

HOSTILE_5 = {
    "row beyond": ((5, 3), [0, 1, FAR], [0, 1, 2, 3], [1, 2, 3], f"index {FAR}; expected"),
    "row just beyond": ((5, 3), [0, 1, 5], [0, 1, 2, 3], [1, 2, 3], "index 5; expected indices"),
    "negative row": ((5, 3), [0, -FAR, 2], [0, 1, 2, 3], [1, 2, 3], f"index -{FAR}; expected"),
    "falling": ((5, 3), [0, 1, 2], [0, FAR, 2, 3], [1, 2, 3], f"fall from {FAR} to 2"),
    "falling to 0": ((5, 3), [], [0, FAR, 2 * FAR, 0], [], f"fall from {2 * FAR} to 0"),
    "negative pointer": ((5, 3), [0, 1, 2], [0, -FAR, 2, 3], [1, 2, 3], f"fall from 0 to -{FAR}"),
    "negative count": ((5, 3), [0, 1, 2], [0, 1, 2, -1], [1, 2, 3], "cannot be read"),
    "start": ((5, 3), [0, 1, 2], [1, 1, 2, 3], [1, 2, 3], "cannot be read"),
    "too many": ((5, 3), [0, 1, 2], [0, 1, 2, FAR], [1, 2, 3], "cannot be read"),
    "few pointers": ((5, 3), [0, 1, 2], [0, 1, 3], [1, 2, 3], "cannot be read"),
    "no pointers": ((5, 3), [0, 1, 2], [], [1, 2, 3], "cannot be read"),
    "few values": ((5, 3), [0, 1, 2], [0, 1, 2, 3], [1, 2], "cannot be read"),
    "no rows": ((0, 3), [0, 1, 2], [0, 1, 2, 3], [1, 2, 3], "index 0; expected indices from 0, be"),
    "negative shape": ((-5, 3), [0, 1, 2], [0, 1, 2, 3], [1, 2, 3], "cannot be read"),
    "one axis": ((5,), [0, 1, 2], [0, 1, 2, 3], [1, 2, 3], "shape [5]; expected rows and col"),
    "three axes": ((5, 3, 2), [0, 1, 2], [0, 1, 2, 3], [1, 2, 3], "shape [5, 3, 2]; expected rows"),
    "huge": ((10**9, 10**9), [0], [0, 1], [1], f"x {10**9} that takes {10**18} bytes or more"),
    "tall": ((2 * 10**9, 3), [0, 1], [0, 1, 1, 2], [1, 2], f"expected at most {sparse.LIMIT}"),
}
GOOD = {"ir": whole([0, 1, 2]), "jc": whole([0, 1, 2, 3]), "data": np.arange(1.0, 4)}
NEVER = 2**64 - 1
HOSTILE_73 = {
    "row beyond": (5, {"ir": whole([0, 1, FAR])}, f"index {FAR}; expected"),
    "row just beyond": (5, {"ir": whole([0, 1, 5])}, "index 5; expected indices from 0, below 5"),
    "row -1 as unsigned": (5, {"ir": whole([0, 1, NEVER])}, f"index {NEVER}; expected"),
    "negative row": (5, {"ir": np.array([0, -FAR, 2])}, f"index -{FAR}; expected"),
    "fractional row": (5, {"ir": np.array([0, 0.5, 2])}, "no lists of whole numbers"),
    "falling": (5, {"jc": whole([0, FAR, 2, 3])}, f"fall from {FAR} to 2"),
    "falling to 0": (5, {"jc": whole([0, FAR, FAR, 0])}, f"fall from {FAR} to 0"),
    "start": (5, {"jc": whole([1, 1, 2, 3])}, "1 as first pointer; expected 0"),
    "too many": (5, {"jc": whole([0, 1, 2, 4])}, "3 indices and 3 values; its pointers say 4"),
    "no pointers": (5, {"jc": whole([])}, "it has no 'jc'"),
    "few values": (5, {"data": np.ones(2)}, "3 indices and 2 values; its pointers say 3"),
    "few rows": (5, {"ir": whole([0, 1])}, "2 indices and 3 values; its pointers say 3"),
    "text": (5, {"ir": np.bytes_("012")}, "no lists of whole numbers"),
    "negative shape": (-5, {}, "index 0; expected"),
    "no rows": ("five", {}, "its number of rows is no whole number"),
    "huge": (10**9, {"jc": (10**9 + 1,)}, f"x {10**9} that takes {10**18 * 8 + 8 * 10**9 + 56}"),
    "wide and empty": (0, {"jc": (10**9 + 1,)}, f"expected at most {sparse.LIMIT}"),
    "tall": (10**9, {}, f"expected at most {sparse.LIMIT}"),
    "empty": (10**8, {}, f"expected at most {sparse.ROOM} for 3 values"),
    "long": (5, {"ir": (10**9,), "data": (10**9,)}, f"expected at most {sparse.LIMIT}"),
    "beyond any": (np.uint64(NEVER), {}, f"expected at most {sparse.LIMIT}"),
}
HOSTILE_4 = {
    "row beyond": ([[1, 1, 1], [FAR, 2, 2], [5, 3, 0]], "cannot be read"),
    "row 0": ([[0, 1, 1], [5, 3, 0]], "cannot be read"),
    "no number": ([[np.nan, 1, 1], [5, 3, 0]], "cannot be read"),
    "huge": ([[1, 1, 1], [1e9, 1e9, 0]], f"takes {10**18} bytes or more"),
}


INSPECT = """
import sys
from pathlib import Path
from fedsyn.data.inspection import inspect
from fedsyn.errors import UnsafeDataError
for path in sys.argv[1:]:
    try:
        inspect(path)
        print("accepted", flush=True)
    except UnsafeDataError as error:
        print(error, flush=True)
    except Exception as error:
        print(type(error), error, flush=True)
status = Path("/proc/self/status")
for line in status.read_text().splitlines() if status.exists() else ():
    if line.startswith("VmHWM:"):
        print(line)
"""
PEAK = 256  # MiB that may be needed to refuse


def alone(*arguments) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)


def check_refused(paths, messages):
    """One process meets these files one after another."""
    done = alone("-c", INSPECT, *paths)
    said = done.stdout.splitlines()
    assert done.returncode == 0, f"ended by {paths[len(said)].name}: {done.stderr}"
    *said, peak = said if "VmHWM" in said[-1] else [*said, "VmHWM: 0 kB"]
    for path, message, line in zip(paths, messages, said, strict=True):
        assert line.startswith(f"array 'x' of {str(path)!r} "), line
        assert message in line, line
    assert int(peak.split()[1]) < PEAK * 1024


def test_hostile_files_of_version_5_are_refused(tmp_path):
    paths, messages = [], []
    for case, (shape, indices, pointers, values, message) in HOSTILE_5.items():
        forms = [{}, {"packed": True}, {"logical": True}, {"imaginary": [1] * len(values)}]
        for number, form in enumerate(forms):
            path = tmp_path / f"{case}, form {number}.mat"
            paths.append(matlab5(path, shape, indices, pointers, values, **form))
            messages.append(message)
    check_refused(paths, messages)


def test_hostile_files_of_version_73_are_refused(tmp_path):
    paths = [
        matlab73(tmp_path / f"{case}.mat", rows, **(GOOD | changes))
        for case, (rows, changes, _) in HOSTILE_73.items()
    ]
    check_refused(paths, [message for *_, message in HOSTILE_73.values()])


def test_hostile_files_of_version_4_are_refused(tmp_path):
    paths = [matlab4(tmp_path / f"{case}.mat", table) for case, (table, _) in HOSTILE_4.items()]
    check_refused(paths, [message for _, message in HOSTILE_4.values()])


def test_infinite_axes_of_version_4_are_damage(tmp_path):
    path = matlab4(tmp_path / "p.mat", [[1, 1, 1], [np.inf, 3, 0]])
    with pytest.raises(DataError, match=r"p\.mat' is damaged or not a \.mat file: cannot convert"):
        arrays_of(path)


def write_hostile(version, path):
    if version == "5":
        return matlab5(path, *HOSTILE_5["falling to 0"][:4])
    return matlab73(path, 5, **(GOOD | HOSTILE_73["row beyond"][1]))


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("command", ["inspect", "run"])
def test_the_command_line_refuses_them_in_one_sentence(tmp_path, version, command):
    path = write_hostile(version, tmp_path / "p.mat")
    arguments = ["data", "inspect", path]
    if command == "run":
        keys = ["data.image=x", "data.text=x", f"data.path={path}"]
        arguments = ["run", *keys, "--out", tmp_path / "run"]
    done = alone("-m", "fedsyn", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    sentence = f"error: array 'x' of {str(path)!r} is a sparse matrix of 5 x 3 that contradicts"
    assert done.stderr.startswith(sentence)


@pytest.mark.parametrize("part", ["jc", "ir", "data"])
def test_parts_of_other_files_are_not_followed(tmp_path, part):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["part"] = GOOD[part]
    path = matlab73(tmp_path / "p.mat", 5, **{name: GOOD[name] for name in GOOD if name != part})
    with h5py.File(path, "r+") as file:
        file["x"][part] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "part")
    with pytest.raises(UnsafeDataError, match=r"array 'x' of '.*' (cannot be|is a sparse)"):
        arrays_of(path)["x"].read()


def test_hostile_arrays_that_nobody_asked_for_are_left_alone(tmp_path):
    path = matlab73(tmp_path / "p.mat", 5, jc=whole([0, 1]), ir=whole([FAR]), data=np.ones(1))
    pairs = read(DataConfig(path=str(path), image="y", text="y"))
    assert len(pairs) == 5 and pairs.columns == {}


def test_hostile_matrices_in_cells_are_not_converted(tmp_path):
    cells = np.empty(2, dtype=object)
    cells[:] = [SOUND, "text"]
    scipy.io.savemat(tmp_path / "p.mat", {"x": cells})
    with pytest.raises(DataError, match="a cell array holds other things than strings"):
        arrays_of(tmp_path / "p.mat")["x"].read()


def test_large_matrices_are_read_if_they_have_the_values(monkeypatch):
    monkeypatch.setattr(sparse, "ROOM", 100)
    monkeypatch.setattr(sparse, "SPARSEST", 4)
    assert np.array_equal(sparse.dense("array", SOUND), DENSE)  # 5 values, 120 bytes
    with pytest.raises(UnsafeDataError, match=r"takes 120 bytes .* at most 100 for 3 values"):
        sparse.dense("array", csc_array(DENSE * (DENSE > 2)))
    monkeypatch.setattr(sparse, "LIMIT", 119)
    with pytest.raises(UnsafeDataError, match=r"takes 120 bytes .* expected at most 119$"):
        sparse.dense("array", SOUND)


def test_few_values_are_not_worth_gigabytes(tmp_path):
    path = matlab5(tmp_path / "p.mat", (10**8, 1), [0], [0, 1], [1.0])
    with pytest.raises(UnsafeDataError, match=f"expected at most {sparse.ROOM} for 1 values"):
        arrays_of(path)["x"].read()


# A cache is a file, too.


@pytest.mark.parametrize(
    "change",
    [
        {"indices": np.full(9, FAR)},
        {"indptr": np.array([0, FAR, FAR, 0] * 30 + [0])},
        {"indptr": np.zeros(3, int)},
        {"data": np.array(["text"] * 9)},
        {"other": np.zeros(3)},
    ],
)
def test_hostile_entries_of_the_cache_are_computed_again(configure, tmp_path, change):
    texts = np.array([f"number {row}" for row in range(120)])
    np.savez(tmp_path / "pairs.npz", image=np.ones((120, 2)), text=texts)
    own = {"path": str(tmp_path / "pairs.npz"), "buckets": 64, "cache": str(tmp_path / "cache")}
    settings = configure(data=own, partition={"scheme": "iid", "clients": 2})
    fresh = local_data(settings).text.descriptors
    name = cache.key("text", texts, version=VERSION, buckets=64)
    entry = tmp_path / "cache" / f"{name}.npz"
    assert entry.exists()
    good = {"data": fresh.data, "indices": fresh.indices, "indptr": fresh.indptr}
    np.savez(entry, **({} if "other" in change else good) | change)
    again = local_data(settings).text.descriptors
    for part in good:
        assert np.array_equal(getattr(again, part), good[part])
    with np.load(entry) as mended:
        assert np.array_equal(mended["indices"], fresh.indices)


# The gate itself.


def test_matrices_of_formats_that_no_file_gives_are_not_converted_unseen():
    with pytest.raises(TypeError, match="a matrix of the format 'dia'; expected csc, csr or coo"):
        sparse.dense("array", dia_array(DENSE))


def test_rows_and_coordinates_are_looked_at_as_columns_are():
    rows = csr_array(DENSE)
    assert np.array_equal(sparse.dense("array", rows), DENSE)
    rows.indices[0] = 3
    with pytest.raises(UnsafeDataError, match="index 3; expected indices from 0, below 3"):
        sparse.dense("array", rows)
    for axis in (0, 1):
        coordinates = coo_array(DENSE)
        coordinates.coords[axis][0] = -1
        with pytest.raises(UnsafeDataError, match="index -1; expected indices from 0, below"):
            sparse.dense("array", coordinates)
