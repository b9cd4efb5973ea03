"""From TOML and overrides to sections and back, with complaints a user can act on."""

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import tomli_w

from fedsyn.errors import ConfigError
from fedsyn.settings.sections import S, Section


def read_tree(path: Path | str | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The tree of a TOML file (empty where ``None``) with ``section.key=value`` overrides.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or an override is not of that form.
    """
    tree = {} if path is None else _toml(Path(path))
    for override in overrides:
        _apply(tree, override)
    return tree


def read(path: Path, kind: type[S]) -> S:
    """A section from a TOML file; raises `ConfigError` as `read_tree` and `validated` do."""
    return validated(kind, read_tree(path))


def validated(kind: type[S], tree: Mapping[str, Any]) -> S:
    """A section from a nested mapping.

    Raises
    ------
    ConfigError
        That names the first wrong key or value.
    """
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(_explanation(error, kind)) from None


def dump(section: Section) -> str:
    """The complete section as TOML; ``validated(kind, tomllib.loads(dump(s))) == s``."""
    return tomli_w.dumps(section.model_dump(mode="json"))


def over(tree: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with the values of another in place of its own."""
    nested = {
        name: over(tree[name], value)
        for name, value in more.items()
        if isinstance(value, Mapping) and isinstance(tree.get(name), Mapping)
    }
    return {**tree, **more, **nested}


def keys(kind: type[Section]) -> list[str]:
    """Every key of a section, those of sections in it as ``section.key``."""
    return [path for path, _ in leaves(kind().model_dump())]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The values of a tree, by their paths ``section.key``."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def renamed(section: Section, prefix: str = "") -> Iterable[tuple[str, str]]:
    """The keys that there were in a section and in those in it, and what is said of them."""
    yield from ((f"{prefix}{name}", now) for name, now in type(section).RENAMED.items())
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Section):
            yield from renamed(inner, f"{prefix}{name}.")


def unknown_key(path: str, valid: Collection[str], gone: Mapping[str, str] | None = None) -> str:
    """What is said of a key that is not valid, or not any more."""
    if gone and path in gone:
        return f"key {path!r} is no more: {gone[path]}"
    leaf = path.split(".")[-1]
    named_alike = [key for key in valid if key.split(".")[-1] == leaf]
    close = named_alike or difflib.get_close_matches(path, list(valid), n=1, cutoff=0.0)
    return f"unknown key {path!r}; the nearest valid name is {close[0]!r}"


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {str(path)!r} is not TOML: {error}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *parents, leaf = path.strip().split(".")
    # `method=...` and `objective=...` name the plug-in, as people write it.
    if not parents and leaf in ("method", "objective", "data", "task", "teacher"):
        parents, leaf = [leaf], "name"
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r} goes below {parent!r}, which is a value")
        node = child
    node[leaf] = literal(text.strip())


def literal(text: str) -> Any:
    """A TOML value where the text is one, else the text itself, so strings need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explanation(error: pydantic.ValidationError, kind: type[Section]) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    name = ".".join(location)
    if first["type"] == "value_error":  # of keys that do not go together, which it names
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        if isinstance(first["input"], dict):  # a section that there is not, with its keys
            location += list(first["input"])[:1]
        return unknown_key(".".join(location), keys(kind), dict(renamed(kind())))
    return f"{name} = {first['input']!r} is not valid: {first['msg']}"
