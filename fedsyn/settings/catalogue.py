"""The keys of a configuration as a list in a file: they are known before anything is loaded.

``catalogue.json`` holds the keys of this package's own sections and plug-ins. It is written by
``python -m fedsyn.federation.catalogue``; a test holds it to the sections.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from fedsyn.errors import ConfigError
from fedsyn.settings.loading import leaves, unknown_key

FILE = "catalogue.json"
KEYS, PLUGINS, EXTENSIONS = "keys", "plugins", "run.extensions"
RENAMED = "renamed"


def refuse_unknown(tree: Mapping[str, Any]) -> None:
    """Refuse a key that no configuration has, unless a plug-in from outside may have brought it.

    Raises
    ------
    ConfigError
        That names the key, and the nearest valid one.
    """
    given = dict(leaves(tree))
    known = _catalogue()
    named = {key: given.get(key, "") for key in known[PLUGINS]}
    foreign = any(name and name not in known[PLUGINS][key] for key, name in named.items())
    if foreign or given.get(EXTENSIONS):
        return
    for key in given:
        if key not in known[KEYS]:
            raise ConfigError(unknown_key(key, known[KEYS], known[RENAMED]))


@cache
def _catalogue() -> Any:
    return json.loads(files("fedsyn.settings").joinpath(FILE).read_text("utf-8"))
