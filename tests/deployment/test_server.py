"""Whole runs over nodes: killed and resumed, with files of the silos' own, and what is refused."""

import numpy as np
import pytest

from fedsyn.deployment.server import serve
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records
from fedsyn.federation.runner import run


class Crash(BaseException):
    """Power goes."""


@pytest.mark.parametrize("exchange", range(2, 10))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_was_killed_goes_on_to_the_same_end(
    config, three, status, found, undisturbed, same_weights, tmp_path, exchange, when
):
    """Killed before its nodes hear of an exchange, or after they have done what it asks."""
    left, whole, out = [exchange], three.exchange, tmp_path / "run"

    def crashing(kind, messages, timeout):
        left[0] -= 1
        if left[0] == 0 and when == "before":
            raise Crash
        answers = whole(kind, messages, timeout)
        if left[0] == 0:
            raise Crash
        return answers

    three.exchange = crashing
    with pytest.raises(Crash):
        serve(config, out, three)
    assert status(out)["state"] == "failed"
    if not (out / records.CHECKPOINT).exists():  # not yet a run
        with pytest.raises(RunError, match="there is no run to resume"):
            serve(config, out, three, resume=True)
        return
    serve(config, out, three, resume=True)
    quiet = undisturbed()
    assert found(out) == found(quiet)
    assert same_weights(out, quiet)


def test_silos_with_files_of_their_own_and_a_server_with_a_test_file(
    make, in_process, tmp_path, pairs
):
    files = []
    with np.load(pairs) as held:
        train = held["split"] == "train"
        for name, part in (("a", train & (held["label"] < 3)), ("b", train & (held["label"] >= 3))):
            files.append(tmp_path / f"{name}.npz")
            np.savez(files[-1], image=held["image"][part], text=held["text"][part])
        np.savez(
            tmp_path / "test.npz",
            **{name: held[name][~train] for name in ("image", "text", "label")},
        )
    config = make(
        "flower.nodes=2", f"flower.test={tmp_path}/test.npz", "data.path=", "data.name=",
        "partition.clients=2",
    )  # fmt: skip
    nodes = in_process((0,), (1,), engine=config.engine)
    for number, file in enumerate(files):
        nodes.held[100 + number] = nodes.held[100 + number].changed(data=(str(file),))
    summary = serve(config, tmp_path / "run", nodes)
    assert summary["clients"] == 2
    assert summary["metrics"]["map"] > 0.3  # 1/6 by chance


def test_bounds_are_no_federations(make, in_process, tmp_path):
    for method in ("local", "centralised"):
        with pytest.raises(ConfigError, match=method):
            serve(make(f"method={method}"), tmp_path / method, in_process((0,)))
    with pytest.raises(ConfigError, match="needs everybody's pairs, which no server has"):
        serve(make("synthesis.oracle=true"), tmp_path / "oracle", in_process((0,)))
    assert not list(tmp_path.glob("*/*"))


def test_a_resumed_run_needs_its_directory(config, three, tmp_path):
    with pytest.raises(RunError, match="does not name a run to resume"):
        serve(config, tmp_path / "nowhere", three, resume=True)


def test_a_local_run_cannot_be_resumed_over_nodes(config, three, tmp_path):
    run(config, tmp_path / "run")
    with pytest.raises(RunError, match="does not name a run to resume"):
        serve(config, tmp_path / "run", three, resume=True)
