"""What all tests share."""

import inspect
import json
import re
import subprocess
import sys
import textwrap

import pytest
import torch

from fedsyn import cli
from fedsyn.ops import backends


def pytest_collection_modifyitems(items):
    """Skip the tests that need a GPU where there is none."""
    if "cuda" in backends():
        return
    absent = pytest.mark.skip(reason="no NVIDIA GPU, or the CUDA kernels were not built")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(absent)


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
