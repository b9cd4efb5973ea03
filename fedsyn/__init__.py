"""Unsupervised federated learning of cross-modal retrieval with synthetic data.

    import fedsyn
    config = fedsyn.load_config(None, ["data.path=pairs.npz", "run.rounds=50"])
    summary = fedsyn.run(config, Path("runs/mine"))

A plug-in of yours is an argument of both (``method=MINE``); `check_method`, `check_objective` and
the like try it. Operators are in `fedsyn.ops`. Importing this package imports nothing else: names
are loaded when they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsyn.conformance import (
        check_extension,
        check_filter,
        check_generator,
        check_method,
        check_objective,
        check_reader,
        check_selection,
        check_server_step,
        check_task,
        check_teacher,
    )
    from fedsyn.federation.config import Config
    from fedsyn.federation.config import load as load_config
    from fedsyn.federation.runner import run

__all__ = [
    "Config",
    "check_extension",
    "check_filter",
    "check_generator",
    "check_method",
    "check_objective",
    "check_reader",
    "check_selection",
    "check_server_step",
    "check_task",
    "check_teacher",
    "load_config",
    "run",
]

_HOMES = {
    "Config": ("fedsyn.federation.config", "Config"),
    "load_config": ("fedsyn.federation.config", "load"),
    "run": ("fedsyn.federation.runner", "run"),
    **{name: ("fedsyn.conformance", name) for name in __all__ if name.startswith("check_")},
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fedsyn")
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
