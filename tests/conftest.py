"""What all tests share."""

import inspect
import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from fedsyn import cli
from fedsyn.federation import config
from fedsyn.federation.runner import run
from fedsyn.methods import METHODS
from fedsyn.ops import backends

PATIENCE = 1800  # seconds for tests that compile kernels or start processes

# Other machines, and this one while it is busy, are slower than any deadline. What a profile does
# not say is Hypothesis's own, which derandomizes where the environment looks like a CI's.
settings.register_profile("default", deadline=None, derandomize=False)
# The same examples every time: what is refused was broken by the change at hand.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(trylast=True)  # after Hypothesis has marked its own
def pytest_collection_modifyitems(items):
    """Skip the tests that need a GPU where there is none, and say how long the others may take."""
    absent = pytest.mark.skip(reason="no NVIDIA GPU, or the CUDA kernels were not built")
    without_gpu = "cuda" not in backends()
    for item in items:
        if without_gpu and "gpu" in item.keywords:
            item.add_marker(absent)
        if item.get_closest_marker("timeout"):
            continue
        if any(map(item.get_closest_marker, ("slow", "flower", "gpu"))):
            item.add_marker(pytest.mark.timeout(PATIENCE))
        elif item.get_closest_marker("hypothesis"):
            # Hypothesis takes the failure for one of its example and tries that again, without an
            # end; the other method ends the session, after it has said where it was.
            item.add_marker(pytest.mark.timeout(method="thread"))


@pytest.fixture(autouse=True)
def one_thread():
    """Small products are faster on one thread, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)


def alone(function, *arguments):
    """What a function returns in an interpreter of its own, where a crash ends no other test.

    The function sees only the names that it imports, and JSON carries its arguments and its result:
    an interpreter without torch starts in a moment.
    """
    code = (
        f"import json, sys\n{textwrap.dedent(inspect.getsource(function))}"
        f"print(json.dumps({function.__name__}(*json.load(sys.stdin))))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        input=json.dumps(arguments), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        reason = f"{function.__name__} ended its interpreter ({done.returncode}):\n{done.stderr}"
        pytest.fail(reason, pytrace=False)
    return json.loads(done.stdout)


def answers(calls):
    """What calls of the compiled module raise, or return; arguments are a list or have names."""
    import sys

    from fedsyn import _C

    found = []
    for function, arguments in calls:
        print("calling", function, arguments, file=sys.stderr, flush=True)  # seen after a crash
        try:
            if isinstance(arguments, dict):
                result = getattr(_C, function)(**arguments)
            else:
                result = getattr(_C, function)(*arguments)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        else:
            found.append(f"no error, {result}")
    return found


@pytest.fixture
def check_refused():
    """``check_refused([(function, arguments, message), ...])``: calls of the compiled module.

    Their addresses and sizes are made up: they are made in an interpreter of their own.
    """

    def check(calls, error=ValueError):
        found = alone(answers, [(function, arguments) for function, arguments, _ in calls])
        wrong = [
            f"{function} {arguments}: {answer!r}, expected {error.__name__} {message!r}"
            for (function, arguments, message), answer in zip(calls, found, strict=True)
            if not re.match(rf"{error.__name__}: .*{message}", answer)
        ]
        assert not wrong, "\n".join(wrong)

    return check


@pytest.fixture
def fedsyn(capsys, monkeypatch, tmp_path):
    """``fedsyn("run", ...)``: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsyn", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return call


# ---- A small federation on the spot: two views of six Gaussian classes, 10 clients --------------


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A file of 240 training and 60 test pairs; 9 and 7 features."""
    draw = np.random.default_rng(0)
    label = np.repeat(np.arange(6), 50)
    centre = draw.normal(size=(6, 4)) * 2
    shared = centre[label] + draw.normal(size=(300, 4))
    image = shared @ draw.normal(size=(4, 9)) + 0.3 * draw.normal(size=(300, 9))
    text = shared @ draw.normal(size=(4, 7)) + 0.3 * draw.normal(size=(300, 7))
    split = np.where(np.arange(300) % 5 == 0, "test", "train")
    path = tmp_path_factory.mktemp("data") / "pairs.npz"
    np.savez(path, image=image, text=text, label=label, split=split)
    return path


@pytest.fixture(scope="session")
def pairs_in_lines(pairs, tmp_path_factory):
    """The same pairs, as JSON lines."""
    path = tmp_path_factory.mktemp("lines") / "pairs.jsonl"
    with np.load(pairs) as found:
        rows = [dict(zip(found, each, strict=True)) for each in zip(*found.values(), strict=True)]
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps({name: value.tolist() for name, value in row.items()}) + "\n")
    return path


@pytest.fixture(scope="session")
def rows_of():
    """``rows_of(out)``: the rows of a run, without times."""

    def read(out):
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    return read


@pytest.fixture
def settings(pairs):
    """The overrides of a run that takes a second."""
    return [
        f"data.path={pairs}",
        "partition.min_size=2",
        "model.hidden=[12]",
        "model.dim=8",
        "objective.temperature=1.0",
        "method.batch=16",
        "method.lr=1e-3",
        "synthesis.generator=wgan-gp",
        "synthesis.direct=0.1",
        "synthesis.indirect=0.1",
        "synthesis.jsd=0.1",
        "synthesis.clusters=all",
        "synthesis.directions=pooled",
        "synthesis.prototypes=4",
        "synthesis.min_cluster=3",
        "synthesis.cluster_rounds=2",
        "synthesis.noise=6",
        "synthesis.hidden=[10]",
        "synthesis.critic_hidden=[10]",
        "synthesis.steps=3",
        "synthesis.critic_warmup=4",
        "synthesis.batch=12",
        "synthesis.candidates=128",
        "synthesis.global_prototypes=6",
        "synthesis.share=server",
        "synthesis.shared=40",
        "synthesis.shared_batch=5",
        "synthesis.server_steps=4",
        "synthesis.server_batch=32",
        "synthesis.server_temperature=0.2",
        "synthesis.line_search=[0.0, 0.5, 1.0]",
        "run.rounds=3",
        "engine.threads=1",
        "engine.checkpoint_seconds=0",
    ]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A file of 96 training and 24 test pictures of 10 x 10 pixels."""
    draw = np.random.default_rng(0)
    label = np.arange(120) % 4
    image = draw.integers(0, 90, (120, 10, 10)) + 50 * (label[:, None, None] % 2)
    image[label > 1, :5] += 60
    split = np.where(np.arange(120) % 5 == 0, "test", "train")
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    text = np.array(["", "a", "b", "c"])[label]
    np.savez(path, image=image.astype(np.uint8), text=text, label=label, split=split)
    return path


@pytest.fixture
def picture_settings(pictures):
    """The overrides of a run on pictures that takes a second."""
    return [
        f"data.path={pictures}",
        "data.public=0.2",  # for metrics that fit something to labels
        "partition.min_size=2",
        "partition.alpha=1.0",
        "model.channels=[8]",
        "model.hidden=[8]",
        "model.dim=6",
        "method.batch=64",
        "objective.moco.queue=64",
        "method.ccl.features=4",
        "method.ccl.remote=12",
        "method.ccl.warmup=1",
        "run.rounds=3",
        "engine.threads=1",
        "engine.checkpoint_seconds=0",
    ]


@pytest.fixture(scope="session")
def teacher(pictures, tmp_path_factory):
    """The directory of a run that has learnt to retrieve the pictures."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    own = ["data.cache=", "data.buckets=16", "data.image_dim=8", "data.text_dim=3", "model.dim=6"]
    own += [f"data.path={pictures}", "partition.clients=2", "model.hidden=[8]", "run.rounds=1"]
    run(config.load(None, [*own, "synthesis.enabled=false", "engine.threads=1"]), out)
    return out


@pytest.fixture
def labelled_settings(picture_settings, teacher):
    """The same where classes are learnt, with and without a teacher."""
    creff = ["repeats=2", "draw=4", "features=6", "steps=4", "classifier_epochs=3"]
    feddm = ["pictures=2", "steps=2", "draw=4"]
    taught = ["teacher.name=run", f"teacher.path={teacher}"]
    own = [*(f"method.creff.{each}" for each in creff), *(f"method.feddm.{each}" for each in feddm)]
    return [*picture_settings, *own, *taught]


@pytest.fixture
def make(settings, picture_settings, labelled_settings):
    """``make("key=value", ...)``: the task's small configuration with overrides."""
    by_task = {
        "retrieval": settings,
        "vqa": settings,
        "representation": picture_settings,
        "image_classification": labelled_settings,
        "multimodal_classification": [*settings, "method.lr=0.01"],
    }

    def build(*overrides):
        given = dict(override.split("=", 1) for override in overrides)
        tasks = METHODS.find(given["method"]).tasks if "method" in given else ()
        task = given.get("task", tasks[0].name if tasks else "retrieval")
        return config.load(None, [*by_task.get(task, settings), *overrides])

    return build
