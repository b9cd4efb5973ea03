"""What processes say in their logs since they were started."""

import re
from contextlib import suppress

from fedsyn.deployment.cluster.state import Process

NODE_ID = re.compile(r"SuperNode ID: (\d+)")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def node_id(process: Process) -> str | None:
    """The id that Flower gave a node; None where it has not yet."""
    found = NODE_ID.search(_since_start(process))
    return found[1] if found else None


def tail(process: Process, lines: int) -> str:
    """The last lines of a process's log."""
    return "\n".join(_since_start(process).rstrip().splitlines()[-lines:])


def entry(process: Process, level: str, beginning: str = "") -> str | None:
    """The last entry of a level in the log, as one line."""
    # It goes on to the next one or to an empty line.
    more = r"(?:\n(?!(?:DEBUG|INFO|WARNING|ERROR) *:|\d{4}-).+)*"
    pattern = rf"^(?:{level}) *: *({beginning}.+{more})"
    found = re.findall(pattern, _since_start(process), re.MULTILINE)
    return " ".join(found[-1].split()) if found else None


def _since_start(process: Process) -> str:
    with suppress(FileNotFoundError), open(process.log, "rb") as file:
        file.seek(process.log_start)
        return COLOURS.sub("", file.read().decode("utf-8", errors="replace"))
    return ""
