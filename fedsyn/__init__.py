"""Unsupervised federated learning of cross-modal retrieval with synthetic data.

    import fedsyn
    config = fedsyn.load_config(None, ["data.path=pairs.npz", "run.rounds=50"])
    summary = fedsyn.run(config, Path("runs/mine"))

Operators are in `fedsyn.ops`. Importing this package imports nothing else: names are loaded when
they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsyn.federation.config import Config
    from fedsyn.federation.config import load as load_config
    from fedsyn.federation.runner import run

__all__ = ["Config", "load_config", "run"]

_HOMES = {
    "Config": ("fedsyn.federation.config", "Config"),
    "load_config": ("fedsyn.federation.config", "load"),
    "run": ("fedsyn.federation.runner", "run"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fedsyn")
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
