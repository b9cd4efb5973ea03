"""Other projects' operators, loaded from their installed packages; nothing of theirs is copied.

``make bench`` installs them without their own dependencies (OpenCLIP's would bring another build of
torch), so that single files are loaded where the package as a whole could not be imported.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch


def submodule(package: str, name: str) -> ModuleType | None:
    """``package.name`` without running the package's own initialisation; ``None`` if absent."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations)), *name.split(".")).with_suffix(".py")
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(f"{package}_{name.replace('.', '_')}", path)
    assert spec is not None and spec.loader is not None  # of a Python file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def faiss() -> ModuleType:
    """On as many threads as PyTorch takes."""
    module = importlib.import_module("faiss")
    module.omp_set_num_threads(torch.get_num_threads())
    return module
