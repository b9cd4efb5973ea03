import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from fedsyn.data import cache

VALUE = {"x": np.arange(6.0).reshape(2, 3)}


def forbidden():
    raise AssertionError("computed although it was cached")


def test_auto_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder("auto") == tmp_path / "fedsyn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder("auto") == tmp_path / ".cache" / "fedsyn"


def test_an_empty_setting_is_no_cache():
    assert cache.folder("") is None
    assert cache.cached(None, "entry", lambda: VALUE) is VALUE


def test_the_second_call_reads_what_the_first_computed(tmp_path):
    cache.cached(tmp_path / "new", "entry", lambda: VALUE)
    found = cache.cached(tmp_path / "new", "entry", forbidden)
    assert np.array_equal(found["x"], VALUE["x"])


def test_no_temporary_file_is_left(tmp_path):
    cache.cached(tmp_path, "entry", lambda: VALUE)
    assert [path.name for path in tmp_path.iterdir()] == ["entry.npz"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nonsense", None])
def test_a_damaged_entry_is_computed_again(tmp_path, damage):
    cache.cached(tmp_path, "entry", lambda: VALUE)
    path = tmp_path / "entry.npz"
    whole = path.read_bytes()
    # None flips a byte in the middle of the data: the archive's checksum must find it.
    path.write_bytes(whole[:170] + b"\xff" + whole[171:] if damage is None else damage)
    found = cache.cached(tmp_path, "entry", lambda: VALUE)
    assert np.array_equal(found["x"], VALUE["x"])
    assert np.array_equal(cache.cached(tmp_path, "entry", forbidden)["x"], VALUE["x"])


def test_an_entry_with_pickled_objects_is_not_loaded(tmp_path):
    np.savez(tmp_path / "entry.npz", x=np.array([{}], dtype=object))
    assert cache.cached(tmp_path, "entry", lambda: VALUE) is VALUE


def test_a_folder_that_cannot_be_written_does_not_fail_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    assert cache.cached(tmp_path / "file", "entry", lambda: VALUE) is VALUE


def test_the_key_is_of_content_parameters_and_kind():
    x = np.arange(6)
    keys = {
        cache.key("hog", x, version=1),
        cache.key("hog", x, version=2),
        cache.key("text", x, version=1),
        cache.key("hog", x[::-1], version=1),
        cache.key("hog", x.reshape(2, 3), version=1),
        cache.key("hog", x.astype(np.int32), version=1),
    }
    assert len(keys) == 6
    assert cache.key("hog", x.copy(), version=1) in keys


def _write_often(path: str) -> None:
    for _ in range(30):
        (Path(path) / "entry.npz").unlink(missing_ok=True)
        found = cache.cached(Path(path), "entry", lambda: VALUE)
        assert np.array_equal(found["x"], VALUE["x"])


def test_two_processes_may_write_the_same_entry_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_often, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
