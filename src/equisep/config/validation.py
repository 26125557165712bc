"""Errors shown to the user in one line, and the checks of single fields that raise them."""

import math
from importlib.util import find_spec
from pathlib import Path


class EquisepError(Exception):
    """An error that the user can fix; the message is one line with a remedy."""


class ConfigError(EquisepError, ValueError):
    """A configuration that cannot be run; the message names the field, the value and a remedy."""


def require(valid: bool, name: str, value: object, remedy: str) -> None:
    """Raise ConfigError ``name=value: remedy`` unless the value is valid."""
    if not valid:
        raise ConfigError(f"{name}={value}: {remedy}")


def require_integer(name: str, value: object, least: int) -> None:
    """Raise ConfigError for a value that is not an integer of at least ``least``."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    require(integer, name, value, "must be an integer")
    require_at_least(name, int(str(value)), least)


def require_at_least(name: str, value: float, least: int) -> None:
    """Raise ConfigError for a number below ``least``."""
    require(value >= least, name, value, f"must be at least {least}")


def is_positive(value: float) -> bool:
    """Whether a number is above 0 and finite."""
    return 0 < value < math.inf


def is_odd(value: int) -> bool:
    """Whether a number is odd and at least 1."""
    return value >= 1 and value % 2 == 1


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError for a value that is not among those allowed."""
    require(value in allowed, name, value, "choose one of " + ", ".join(allowed))


def not_writable(results: str | Path, error: OSError) -> ConfigError:
    """Return the error of a results folder that the system does not let us write to, with the system's reason."""
    return ConfigError(f"results={results}: {error.strerror}; set a folder that can be written to")


def require_extra(module: str, extra: str, needed_by: str) -> None:
    """Raise ConfigError, with the command that installs it, unless a module of one of equisep's extras is installed."""
    if find_spec(module) is None:
        remedy = f"run pip install 'equisep[{extra}]', in a checkout make setup EXTRAS={extra}"
        raise ConfigError(f"{needed_by}: {module} is missing; {remedy}")
