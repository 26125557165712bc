"""Classes and functions that the user names by their dotted path: found, checked and identified by their file."""

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equisep.config.validation import ConfigError, require

# Hex digits of the digest of a file that a target is identified by.
DIGEST_LENGTH = 16


def find_target(field: str, path: str) -> Any:
    """Return the class or function at a dotted path, ``package.module.Name``.

    Its module is imported, from the working folder or what is installed; nothing else is. field: the config's field
    that names it, for messages. Raises ConfigError for a path that leads nowhere or to something that is not callable.
    """
    module_name, _, name = path.rpartition(".")
    named = bool(module_name) and all(part.isidentifier() for part in path.split("."))
    require(named, field, path, "must be the dotted path of a class or function, such as mypackage.nets.MyNet")
    # An installed command does not look there, as python -m does.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            where = "in the working folder or installed"
            raise ConfigError(f"{field}={path}: there is no module {missing} {where}") from None
        raise ConfigError(f"{field}={path}: {module_name} needs the module {missing}, which is not installed") from None
    except (Exception, SystemExit) as error:
        problem = f"{module_name} cannot be imported: {describe_error(error, path)}"
        raise ConfigError(f"{field}={path}: {problem}") from None
    target = getattr(module, name, None)
    if target is None:
        from equisep.config.vocabulary import nearest

        hint = nearest(name, [key for key in vars(module) if not key.startswith("_")])
        raise ConfigError(f"{field}={path}: {module_name} has no {name}{hint}")
    made = callable(target) and hasattr(target, "__qualname__")
    require(made, field, path, f"is a {type(target).__name__}, not a class or function")
    return target


def digest_of(target: Any) -> str:
    """Return what identifies the source of a class or function: the SHA-256 of its file, the first 16 hex digits.

    What the file imports is not covered. Of a target without a source file, such as one in C, it is of its name.
    """
    try:
        content = Path(inspect.getfile(inspect.unwrap(target))).read_bytes()
    except (TypeError, OSError):
        content = f"{target.__module__}.{target.__qualname__}".encode()
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def call_target(field: str, path: str, arguments: Mapping[str, Any], **offered: Any) -> Any:
    """Return what a class or function at a dotted path makes of keyword arguments.

    offered: arguments that it is given where it takes them by name and ``arguments`` does not have them. Raises
    ConfigError, with the error's first line, where it does not accept them.
    """
    target = find_target(field, path)
    accepted = parameters_of(target)
    given = {name: value for name, value in offered.items() if name in accepted} | dict(arguments)
    try:
        return target(**given)
    except (Exception, SystemExit) as error:
        listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
        problem = f"{path.rpartition('.')[2]}({listed}): {describe_error(error, path)}"
        raise ConfigError(f"{field}={path}: {problem}") from None


def parameters_of(target: Any) -> tuple[str, ...]:
    """Return the names of a callable's parameters; none of one that does not tell, as some in C do not."""
    try:
        return tuple(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return ()


def describe_error(error: BaseException, path: str) -> str:
    """Return the first line of an error, and the place in the file of the target at a path that it comes from."""
    lines = str(error).splitlines()
    said = "calls sys.exit" if isinstance(error, SystemExit) else lines[0] if lines else type(error).__name__
    place = place_of(error, path)
    return f"{said} ({place})" if place else said


def place_of(error: BaseException, path: str) -> str:
    """Return file and line of the module of a dotted path that an error comes from; empty if from none of its lines."""
    source = getattr(sys.modules.get(path.rpartition(".")[0]), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    return f"{Path(source).name}, line {lines[-1]}" if source and lines else ""
