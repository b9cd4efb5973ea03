import io

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image
from scipy.sparse import csc_array

from fedsyn.data.reading import read
from fedsyn.data.sections import DataConfig
from fedsyn.errors import DataError

N = 12
IMAGE = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
TEXT = np.random.default_rng(1).normal(size=(N, 3))
LABEL = np.arange(N) % 3
SPLIT = np.array(["train", "test"] * (N // 2))
STRINGS = np.array([f"text {row} ü" for row in range(N)])
PIXELS = np.random.default_rng(2).integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)


def data(path, **keys) -> DataConfig:
    return DataConfig(path=str(path), **keys)


def npz(folder, **arrays):
    arrays = {"image": IMAGE, "text": TEXT, **arrays}
    path = folder / "pairs.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def matlab73(path, **arrays):
    """What MATLAB's `save -v7.3` writes: axes reversed, strings as references to uint16."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            if isinstance(array, list):
                cells = file.create_dataset(name, (1, len(array)), dtype=h5py.ref_dtype)
                cells.attrs["MATLAB_class"] = np.bytes_("cell")
                for row, string in enumerate(array):
                    codes = np.frombuffer(string.encode("utf-16-le"), "<u2").reshape(-1, 1)
                    node = file.create_dataset(f"#refs#/{name}{row}", data=codes)
                    node.attrs["MATLAB_class"] = np.bytes_("char")
                    cells[0, row] = node.ref
            else:
                file[name] = array.T
                file[name].attrs["MATLAB_class"] = np.bytes_("double")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    return path


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (value, 0, 0)).save(stream, "png")
    return stream.getvalue()


def check(pairs):
    assert len(pairs) == N
    assert np.allclose(pairs.image, IMAGE) and np.allclose(pairs.text, TEXT)
    assert np.array_equal(pairs.label, LABEL) and pairs.label_names == ("0", "1", "2")
    assert pairs.label.dtype == np.int64


# The same pairs in every format.


def test_npz(tmp_path):
    path = npz(tmp_path, label=LABEL, split=SPLIT, site=np.arange(N), wide=np.zeros((N, 9)))
    pairs = read(data(path))
    check(pairs)
    assert np.array_equal(pairs.split, SPLIT == "test")
    assert pairs.name == "pairs" and set(pairs.columns) == {"label", "site"}


def test_npz_members_are_memory_mapped_unless_compressed(tmp_path):
    pairs = read(data(npz(tmp_path, text=np.asfortranarray(TEXT))))
    assert isinstance(pairs.image, np.memmap) and isinstance(pairs.text, np.memmap)
    assert np.array_equal(pairs.text, TEXT)
    np.savez_compressed(tmp_path / "small.npz", image=IMAGE, text=TEXT)
    assert np.array_equal(read(data(tmp_path / "small.npz")).image, IMAGE)


def test_matlab_5(tmp_path):
    path = tmp_path / "pairs.mat"
    scipy.io.savemat(path, {"I_tr": IMAGE, "T_tr": csc_array(TEXT), "L_tr": LABEL[:, None] + 0.0})
    check(read(data(path, image="I_tr", text="T_tr", label="L_tr")))


def test_matlab_5_cells_of_strings(tmp_path):
    path = tmp_path / "pairs.mat"
    cells = STRINGS.astype(object)
    cells[3] = ""
    scipy.io.savemat(path, {"image": IMAGE, "text": cells})
    text = read(data(path)).text
    assert text[2] == "text 2 ü" and text[3] == ""


def test_matlab_73_axes_are_turned_back(tmp_path):
    path = matlab73(tmp_path / "p.mat", image=IMAGE, text=TEXT, label=LABEL[:, None].astype(float))
    check(read(data(path)))


def test_matlab_73_cells_of_strings(tmp_path):
    path = matlab73(tmp_path / "p.mat", image=IMAGE, text=STRINGS.tolist())
    assert np.array_equal(read(data(path)).text, STRINGS)


def test_hdf5(tmp_path):
    path = tmp_path / "pairs.h5"
    with h5py.File(path, "w") as file:
        file["train/image"] = IMAGE
        file.create_dataset("text", data=TEXT, compression="gzip")
        file["label"] = LABEL
        file["caption"] = STRINGS.astype(object)
    pairs = read(data(path, image="train/image"))
    check(pairs)
    assert isinstance(pairs.image, np.memmap) and not isinstance(pairs.text, np.memmap)
    assert np.array_equal(read(data(path, image="train/image", text="caption")).text, STRINGS)


def test_parquet(tmp_path):
    path = tmp_path / "pairs.parquet"
    table = {
        "image": pa.FixedSizeListArray.from_arrays(pa.array(IMAGE.ravel()), 5),
        "text": pa.array(TEXT.tolist()),
        "label": pa.array(LABEL),
        "captions": pa.array([["a", "b"], ["c"]] * (N // 2)),
        "site": pa.array(["x", "y"] * (N // 2)).dictionary_encode(),
    }
    pq.write_table(pa.table(table), path, row_group_size=5)
    pairs = read(data(path))
    check(pairs)
    assert pairs.columns["site"].tolist() == ["x", "y"] * (N // 2)
    assert read(data(path, text="captions")).text[:2].tolist() == ["a b", "c"]


@pytest.mark.parametrize("layout", ["bytes", "struct"])
def test_parquet_pictures_are_decoded(tmp_path, layout):
    files = [png(row) for row in range(N)]
    column = files if layout == "bytes" else [{"bytes": file, "path": None} for file in files]
    pq.write_table(pa.table({"image": column, "text": STRINGS}), tmp_path / "p.parquet")
    pairs = read(data(tmp_path / "p.parquet", size=16))
    assert pairs.image.shape == (N, 16, 16, 3) and pairs.image[7, 0, 0].tolist() == [7, 0, 0]
    assert np.array_equal(pairs.text, STRINGS)


def test_csv_beside_a_folder_of_pictures(tmp_path):
    (tmp_path / "photos").mkdir()
    for row in range(2):
        (tmp_path / "photos" / f"{row}.png").write_bytes(png(row))
    path = tmp_path / "captions.csv"
    path.write_text('file,caption,group\n0.png,"a dog, running",x\n1.png,ein Hündchen,y\n')
    config = data(
        path, image="file", text="caption", label="group", images=str(tmp_path / "photos"), size=16
    )
    pairs = read(config)
    assert pairs.text.tolist() == ["a dog, running", "ein Hündchen"]
    assert pairs.image.shape == (2, 16, 16, 3)
    assert pairs.label.tolist() == [0, 1] and pairs.label_names == ("x", "y")


def test_captions_of_one_picture_are_one_pair(tmp_path):
    for row in range(2):
        (tmp_path / f"{row}.png").write_bytes(png(row))
    path = tmp_path / "captions.csv"
    path.write_text("image,text,split\n1.png,one,test\n0.png,two,train\n1.png,three,test\n")
    pairs = read(data(path, size=16))
    assert pairs.text.tolist() == ["one three", "two"]
    assert pairs.image[:, 0, 0, 0].tolist() == [1, 0] and pairs.split.tolist() == [True, False]
    assert pairs.columns["image"].tolist() == ["1.png", "0.png"]


# What arrays become.


def test_several_captions_become_one_text(tmp_path):
    captions = np.array([["a dog", "runs"], ["", "a cat"]] * (N // 2))
    assert read(data(npz(tmp_path, text=captions))).text[:2].tolist() == ["a dog runs", "a cat"]


def test_string_labels_are_numbered_and_named(tmp_path):
    pairs = read(data(npz(tmp_path, label=np.array(["b", "a", "", "b"] * 3))))
    assert pairs.label[:4].tolist() == [1, 0, -1, 1] and pairs.label_names == ("a", "b")


def test_labels_are_renumbered_from_zero_and_keep_their_names(tmp_path):
    pairs = read(data(npz(tmp_path, label=np.array([10, 20, -1, np.nan] * 3))))
    assert pairs.label[:4].tolist() == [0, 1, -1, -1] and pairs.label_names == ("10", "20")


def test_names_of_labels_in_the_file_are_used(tmp_path):
    names = np.array(["x", "y", "z", "unused"])
    assert read(data(npz(tmp_path, label=LABEL, label_names=names))).label_names == tuple(names)


def test_label_matrices_are_multi_label(tmp_path):
    matrix = np.eye(4, dtype=int)[LABEL]
    pairs = read(data(npz(tmp_path, label=matrix)))
    assert pairs.label.dtype == bool and np.array_equal(pairs.label, matrix)
    assert len(pairs.label_names) == 4


def test_no_label_and_no_split_are_fine_unless_named(tmp_path):
    pairs = read(data(npz(tmp_path)))
    assert pairs.label is None and pairs.label_names == () and pairs.split is None
    assert read(data(npz(tmp_path, label=LABEL), label="")).label is None
    with pytest.raises(DataError, match=r"data\.label = 'topic' is not an array of"):
        read(data(npz(tmp_path), label="topic"))


@pytest.mark.parametrize("split", [np.arange(N) == 3, (np.arange(N) == 3).astype(int)])
def test_split_may_be_numbers(tmp_path, split):
    assert np.flatnonzero(read(data(npz(tmp_path, split=split))).split).tolist() == [3]


def test_pixels_keep_their_shape(tmp_path):
    assert read(data(npz(tmp_path, image=PIXELS))).has_pixels
    assert read(data(npz(tmp_path, image=PIXELS[..., :1]))).image.shape == (N, 16, 16)


def test_integer_features_become_float(tmp_path):
    pairs = read(data(npz(tmp_path, text=np.arange(N * 2).reshape(N, 2))))
    assert pairs.text.dtype == np.float32 and not pairs.has_strings


# What is refused, and how it is said.

WITH_NAN = IMAGE.copy()
WITH_NAN[4, 2] = np.nan


@pytest.mark.parametrize(
    ("arrays", "keys", "message"),
    [
        ({}, {"image": "imgae"}, r"data\.image = 'imgae' .* \(it has image, text\); did you mean"),
        ({"text": TEXT[:-1]}, {}, r"array 'text' .* has 11 rows and array 'image' has 12"),
        ({"label": LABEL[:3]}, {}, r"array 'label' .* has 3 rows"),
        ({"image": WITH_NAN}, {}, r"array 'image' .* has nan in row 4; expected finite"),
        ({"image": np.full((N, 2), 1e300)}, {}, r"has 1e\+300 in row 0; expected finite"),
        ({"image": IMAGE + 1j}, {}, r"array 'image' .* has dtype complex64"),
        ({"image": IMAGE[:, 0]}, {}, r"array 'image' .* has shape \[12\]; expected features"),
        ({"image": PIXELS / 255}, {}, r"has 4 axes and dtype float64; expected pixels .* uint8"),
        ({"image": np.moveaxis(PIXELS, 3, 1)}, {}, r"has shape \[12, 3, 16, 16\]; expected feat"),
        ({"text": TEXT[:, None]}, {}, r"array 'text' .* has shape \[12, 1, 3\]; expected strings"),
        ({"image": np.array([{}] * N)}, {}, r"array 'image' .* pickled Python objects"),
        ({"image": IMAGE[:0], "text": TEXT[:0]}, {}, r"holds no pairs: array 'image' has no rows"),
        ({"image": np.float64(7)}, {}, r"holds no pairs: array 'image' has no rows"),
        ({"text": np.float64(7)}, {}, r"array 'text' .* has no rows and array 'image' has 12"),
        ({"image": IMAGE[:, :0]}, {}, r"expected at least one feature"),
        ({"label": LABEL - 5}, {}, r"array 'label' .* has -5 in row 0; expected whole numbers"),
        ({"label": LABEL + 0.5}, {}, r"array 'label' .* has 0\.5 in row 0"),
        ({"label": np.eye(N) * 2}, {}, r"array 'label' .* has 2\.0 in row 0; expected only 0 and"),
        ({"label": LABEL, "label_names": SPLIT[:2]}, {}, r"has 2 in row 2; expected less than 2"),
        ({"split": np.array(["val"] * N)}, {}, r"array 'split' .* has val in row 0; expected"),
        ({"split": np.array(["train"] * N)}, {}, r'array \'split\' .* has no "test" rows'),
        ({"split": np.ones(N)}, {}, r'array \'split\' .* has no "train" rows'),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(tmp_path, arrays, keys, message):
    path = npz(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        read(data(path, **keys))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_pickled_objects_nobody_asked_for_are_left_alone(tmp_path):
    assert len(read(data(npz(tmp_path, meta=np.array([{}] * N))))) == N


@pytest.mark.parametrize("name", ["pairs.npz", "p.mat", "p.h5", "p.parquet", "p.csv"])
def test_missing_files_are_named(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}' does not exist"):
        read(data(tmp_path / name))


@pytest.mark.parametrize("name", ["p.npz", "p.mat", "p.h5", "p.parquet"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 40])
def test_damaged_files_are_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}' is damaged or not a ") as caught:
        read(data(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_truncated_files_are_one_sentence(tmp_path):
    path = npz(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is damaged"):
        read(data(path))


def test_unknown_extensions_and_folders_are_refused(tmp_path):
    (tmp_path / "pairs.xls").write_text("")
    with pytest.raises(DataError, match=r"unknown extension '\.xls'; expected one of \.npz, "):
        read(data(tmp_path / "pairs.xls"))
    with pytest.raises(DataError, match="is a folder; expected a file"):
        read(data(tmp_path))


def test_ragged_lists_and_nulls_in_parquet_are_named(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"image": [[1.0, 2.0], [3.0]], "text": ["a", "b"]}), path)
    with pytest.raises(DataError, match="column 'image' has 1 values in row 1 and 2 in row 0"):
        read(data(path))
    pq.write_table(pa.table({"image": [[1.0], None], "text": ["a", "b"]}), path)
    with pytest.raises(DataError, match="column 'image' is null in row 1"):
        read(data(path))


def test_csv_rows_with_too_few_fields_are_named(tmp_path):
    (tmp_path / "p.csv").write_text("image,text\na.png,x\nb.png\n")
    with pytest.raises(DataError, match="has 1 fields in row 1 and 2 columns"):
        read(data(tmp_path / "p.csv"))
