import io

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image

from fedsyn.data.inspection import inspect
from fedsyn.errors import DataError

VALUES = np.array([[1.0, np.nan], [-2.5, 4.0]])


def rows(path):
    return {row.name: row for row in inspect(path)}


def write(path):
    match path.suffix:
        case ".npz":
            np.savez(path, x=VALUES, s=np.array(["first", ""]))
        case ".mat":
            scipy.io.savemat(path, {"x": VALUES, "s": np.array(["first", ""], dtype=object)})
        case ".h5":
            with h5py.File(path, "w") as file:
                file["x"], file["s"] = VALUES, np.array(["first", ""], dtype=object)
        case ".parquet":
            pq.write_table(pa.table({"x": VALUES.tolist(), "s": ["first", ""]}), path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5", ".parquet"])
def test_arrays_of_every_format_are_summarised(tmp_path, suffix):
    found = rows(write(tmp_path / f"pairs{suffix}"))
    x, s = found["x"], found["s"]
    assert x.shape == (2, 2) and (x.low, x.high, x.missing) == (-2.5, 4.0, 1)
    assert x.example == "1 nan"
    assert s.shape == (2,) and (s.low, s.high, s.missing) == (None, None, 1)
    assert s.example == "first"


def test_csv_columns_and_picture_bytes_are_summarised(tmp_path):
    (tmp_path / "p.csv").write_text("image,text\na.png,hello\n")
    assert rows(tmp_path / "p.csv")["image"].example == "a.png"
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "png")
    pq.write_table(pa.table({"image": [stream.getvalue()]}), tmp_path / "p.parquet")
    assert rows(tmp_path / "p.parquet")["image"].example == f"{len(stream.getvalue())} bytes"


def test_arrays_that_cannot_be_read_say_why(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.array([{}]), y=np.arange(3))
    found = rows(tmp_path / "p.npz")
    assert "pickled" in found["x"].example and found["y"].high == 2


def test_long_examples_are_shortened_and_empty_arrays_have_no_range(tmp_path):
    np.savez(tmp_path / "p.npz", s=np.array(["long " * 50]), x=np.empty((0, 3)))
    found = rows(tmp_path / "p.npz")
    assert len(found["s"].example) <= 60
    assert (found["x"].low, found["x"].example) == (None, "")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        inspect(tmp_path / "no.npz")
