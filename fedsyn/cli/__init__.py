"""The command line: ``fedsyn.cli.main`` is what ``fedsyn`` starts."""

from fedsyn.cli.app import main

__all__ = ["main"]
