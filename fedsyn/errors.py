"""The exceptions that users meet; each message names the culprit and what was expected."""


class FedsynError(ValueError):
    """Base of every error that bad input can cause; the command line shows it as one sentence."""


class ConfigError(FedsynError):
    """A configuration key or value is unknown, out of range or contradicts another."""


class DataError(FedsynError):
    """A data file is missing, malformed, or holds what cannot be trained on."""


class UnsafeDataError(DataError):
    """An array that would harm whoever reads it: it is not passed over like an unreadable one."""


class RunError(FedsynError):
    """A run directory cannot be written, resumed or read."""


class PluginError(FedsynError):
    """A plug-in does not keep what is promised of its family."""
