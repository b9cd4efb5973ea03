"""The house: who may import whom, who knows whose name, and how things are called."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsyn
from fedsyn.methods import METHODS
from fedsyn.objectives import OBJECTIVES
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.tasks import TASKS

ROOT = Path(fedsyn.__file__).parent
# From the ground up: a room imports from its own floor and those below it.
FLOORS = [
    {"errors", "streams", "profiling"},
    {"settings"},
    {"ops", "core"},
    {"data"},
    {"models", "encoders", "metrics"},
    {"tasks", "objectives"},
    {"synthesis", "privacy"},
    {"methods"},
    {"federation"},
    {"deployment", "report", "audit"},
    {"conformance"},
    {"cli", "__main__", "__init__"},
]
# Of the tables and the operators' names, which are those of what they compute.
TABLES = {"methods/__init__.py", "tasks/__init__.py", "objectives/__init__.py",
          "synthesis/generators/__init__.py"}  # fmt: skip
WORDS = {"local", "retrieval"}  # also have a plain meaning: they may be said, but not compared with
SHORTEST = 26  # characters of a docstring that is a sentence


def sources() -> Iterator[tuple[Path, ast.Module]]:
    """Every file of the package but the kernels', parsed."""
    for path in sorted(ROOT.rglob("*.py")):
        if "kernels" not in path.parts:
            yield path.relative_to(ROOT), ast.parse(path.read_text("utf-8"))


SOURCES = list(sources())


def floor(room: str) -> int:
    """Where a room is."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of this package that a file imports at any place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("fedsyn."))
        elif isinstance(node, ast.ImportFrom) and node.module == "fedsyn":
            yield from (f"fedsyn.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedsyn."):
            yield node.module or ""


def test_rooms_import_from_floors_below():
    wrong = []
    for path, tree in SOURCES:
        room = path.parts[0].removesuffix(".py")
        for module in imported(tree):
            other = module.split(".")[1]
            known = any(other in rooms for rooms in FLOORS)
            if known and other != "_C" and floor(other) > floor(room):
                wrong.append(f"{path} imports {module}")
    assert not wrong


def docstrings(tree: ast.Module) -> Iterator[tuple[str, ast.Constant]]:
    """The docstrings of a file, by what they are of."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield getattr(node, "name", "the module"), value


def compared(tree: ast.Module) -> set[int]:
    """Constants that something is compared with, or looked up by."""
    found: set[int] = set()
    for node in ast.walk(tree):
        inner: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            inner = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            inner = [node.value]
        for one in inner:
            found |= {id(leaf) for leaf in ast.walk(one)}
    return found


def homes() -> dict[str, set[str]]:
    """The files that plug-ins of each name are defined in."""
    found: dict[str, set[str]] = {}
    for table in (METHODS, TASKS, OBJECTIVES, GENERATORS):
        for entry, plugin in zip(table.entries, table.own, strict=True):
            module = entry.partition(":")[0].removeprefix("fedsyn.").replace(".", "/")
            found.setdefault(plugin.name, set()).add(f"{module}.py")
    return found


def test_nobody_knows_the_name_of_a_plugin():
    """But its own file and its table."""
    wrong, names = [], homes()
    for path, tree in SOURCES:
        if path.as_posix() in TABLES or path.parts[0] == "ops":
            continue
        said = {id(value) for _, value in docstrings(tree)}
        looked_at = compared(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            for name, files in names.items():
                plain = name in WORDS and id(node) not in looked_at
                if id(node) in said or plain or path.as_posix() in files:
                    continue
                if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", node.value):
                    wrong.append(f"{path}:{node.lineno} knows {name!r}")
    for path in ROOT.rglob("*.jinja"):
        text = path.read_text("utf-8")
        wrong += [
            f"{path.relative_to(ROOT)} knows {name!r}"
            for name in names
            if name not in WORDS and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
        ]
    assert not wrong


def test_the_names_are_found_where_they_are():
    """The search above finds what it looks for: each name is in its own file."""
    texts = {path.as_posix(): (ROOT / path).read_text("utf-8") for path, _ in SOURCES}
    assert len(homes()) > 30
    for name, files in homes().items():
        assert all(f'"{name}"' in texts[file] or f"'{name}'" in texts[file] for file in files)


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a parameter named round", lambda node: isinstance(node, ast.arg) and node.arg == "round"),
        ("an assert", lambda node: isinstance(node, ast.Assert)),
        ("a pickle", lambda node: isinstance(node, ast.Import)
         and any(alias.name == "pickle" for alias in node.names)),
    ],
)  # fmt: skip
def test_there_is_none(what, pattern):
    found = [
        f"{path}:{getattr(node, 'lineno', 0)} has {what}"
        for path, tree in SOURCES
        for node in ast.walk(tree)
        if pattern(node)
    ]
    assert not found


def test_docstrings_are_sentences():
    short = [
        f"{path}: {name}: {value.value!r}"
        for path, tree in SOURCES
        for name, value in docstrings(tree)
        if len(str(value.value).strip()) < SHORTEST
    ]
    assert not short
