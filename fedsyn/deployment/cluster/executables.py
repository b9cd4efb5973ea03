"""Flower's executables: where they are, in which environment they run, and what ``flwr`` says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedsyn.deployment.flower.project import SWITCHED_OFF, Project
from fedsyn.errors import ConfigError, RunError

# What flwr says where no SuperLink is, or has ever been.
NOBODY = ("Connection to the SuperLink is unavailable", "Failed to read certificate file")


def executable(name: str) -> str:
    """The path of one of Flower's commands; raises `ConfigError` if Flower is not installed."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError("fedsyn flower needs Flower: pip install 'fedsyn[flower]'")
    return found


def environment(home: Path) -> dict[str, str]:
    """The environment of what is started here.

    Flower's commands call each other by name. Proxies are left out: all of it is on the loopback.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    path = f"{Path(executable('flwr')).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return inherited | SWITCHED_OFF | {"FLWR_HOME": str(home), "PATH": path}


def flwr(project: Project, *arguments: str) -> dict[str, Any]:
    """What ``flwr`` answers; raises `RunError` with its message if it fails."""
    done = subprocess.run(
        [executable("flwr"), *arguments, "--format", "json"],
        env=environment(project.home), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = {"success": False, "error-message": done.stderr or done.stdout}
    if not answer["success"]:
        message = answer["error-message"].strip().split("\n\n")[-1]
        if message.startswith(NOBODY):
            message = f"no SuperLink answers; start it: fedsyn flower up {project.path}"
        raise RunError(f"flwr {arguments[0]}: {message}")
    return answer
