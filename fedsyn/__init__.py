"""Unsupervised federated cross-modal retrieval with synthetic data."""


def __getattr__(name: str) -> str:
    # Read when asked for: the metadata of installed packages costs more than all of this import.
    if name == "__version__":
        from importlib.metadata import version

        return version("fedsyn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
