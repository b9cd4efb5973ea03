"""What the tests and the package promise of themselves."""

import os
import shutil
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
HANGING = """
import subprocess, sys, time
import pytest
from hypothesis import given, strategies as st

def test_waits():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(3600)"])

def test_goes_on():
    pass

@given(st.integers())
def test_hangs(number):
    time.sleep(3600)

def test_is_not_reached():
    pass
"""


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """What pytest says of tests that hang, under the settings of these here but for the time."""
    folder = tmp_path_factory.mktemp("hanging")
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    (folder / "test_hanging.py").write_text(HANGING)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-v", "-c", ROOT / "pyproject.toml"),
            *("--confcutdir", folder, "-p", "no:cacheprovider", "--timeout=2", folder),
        ],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        env=os.environ | {"HYPOTHESIS_PROFILE": "ci"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_test_that_hangs_fails_and_the_next_goes_on(hanging):
    _, said = hanging
    assert "test_waits FAILED" in said and "test_goes_on PASSED" in said


def test_a_property_that_hangs_ends_the_session(hanging):
    code, said = hanging
    assert code != 0 and "Timeout" in said and "in test_hangs" in said
    assert "test_is_not_reached PASSED" not in said


def test_properties_of_a_submission_are_the_same_every_time(hanging):
    assert "hypothesis profile 'ci'" in hanging[1]
    own = settings.get_profile("ci")
    assert (own.derandomize, own.deadline, own.print_blob) == (True, None, True)
    assert settings.get_profile("default").derandomize is False
    assert settings.get_profile("default").deadline is None
    assert "HYPOTHESIS_PROFILE=ci" in (ROOT / ".ci" / "run").read_text()


def test_the_package_ships_its_types_and_its_licence():
    assert (resources.files("fedsyn") / "py.typed").is_file()
    about = metadata.metadata("fedsyn")
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_all("License-File") == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
