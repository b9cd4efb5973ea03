"""The audit of a run: what its recorded uploads tell of the pairs that its clients trained on."""

from fedsyn.audit.run import audit

__all__ = ["audit"]
