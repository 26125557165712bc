"""The words of a command line: groups with their options, and fields; and the nearest ones to an unknown word."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import cast, get_args, get_origin, get_type_hints

from equisep.config.validation import ConfigError

# Environment variable that names the user's own folder of configuration.
OWN_CONF = "EQUISEP_CONFIG_DIR"
# Fields whose value is the name of a folder.
FOLDERS = ("results", "dataset.root")
# Folders of files that are not options of the configuration.
NO_GROUPS = ("profile", "figure")


def conf_folder() -> Path:
    """Return the conf folder: inside the installed package, or next to src in a checkout."""
    installed = Path(__file__).parents[1] / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "conf"


def own_conf_folder() -> Path | None:
    """Return the user's own folder of configuration, that of ``--config-dir`` or EQUISEP_CONFIG_DIR; None without one.

    Processes that this one starts see it too.
    """
    folder = os.environ.get(OWN_CONF)
    return Path(folder).absolute() if folder else None


def use_own_conf(folder: str) -> None:
    """Use the user's own folder of configuration in this process; raises ConfigError if there is no such folder."""
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder")
    os.environ[OWN_CONF] = str(Path(folder).absolute())


def conf_folders() -> tuple[Path, ...]:
    """Return the conf folder and, after it, the user's own."""
    own = own_conf_folder()
    return (conf_folder(), own) if own else (conf_folder(),)


def profile_files() -> dict[str, Path]:
    """Return the files of the profiles of ``make reproduce``, by name."""
    return {path.stem: path for folder in conf_folders() for path in sorted((folder / "profile").glob("*.yaml"))}


def group_options() -> dict[str, tuple[str, ...]]:
    """Return the groups of the configuration with their options: ``optimizer`` to adam, momentum, sgd, …"""
    return _options_of(conf_folders())


@cache
def _options_of(roots: tuple[Path, ...]) -> dict[str, tuple[str, ...]]:
    options: dict[str, tuple[str, ...]] = {}
    for root in roots:
        for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
            group = folder.relative_to(root).as_posix()
            files = sorted(file.stem for file in folder.glob("*.yaml"))
            if files and group not in NO_GROUPS:
                options[group] = tuple(dict.fromkeys([*options.get(group, ()), *files]))
    return options


@cache
def field_names() -> tuple[str, ...]:
    """Return the dotted names of all fields, ``architecture.depth`` and so on, those of every family included."""
    from equisep.config.architectures import FAMILIES
    from equisep.config.datasets import CustomDataset
    from equisep.config.schema import Config

    kinds = [("architecture.", family) for family in FAMILIES.values()] + [("dataset.", CustomDataset)]
    further = (name for prefix, kind in kinds for name in _fields_of(kind, prefix))
    return tuple(dict.fromkeys([*_fields_of(Config, ""), *further]))


@cache
def launcher_fields() -> tuple[str, ...]:
    """Return the dotted names of the fields of all launchers, ``hydra.launcher.partition`` and so on."""
    import yaml

    files = sorted((conf_folder() / "hydra/launcher").glob("*.yaml"))
    names = dict.fromkeys(name for file in files for name in yaml.safe_load(file.read_text(encoding="utf-8")))
    return tuple(f"hydra.launcher.{name}" for name in names if name not in ("defaults", "_target_"))


def _fields_of(kind: type, prefix: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        # A group may be optional; a list of dataclasses, such as training.phases, is set as a whole.
        group = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if group is None or get_origin(hint) is list:
            yield f"{prefix}{field.name}"
        else:
            yield from _fields_of(cast(type, group), f"{prefix}{field.name}.")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean A or B?" with the known words nearest to a word, or ''.

    Dotted names are compared as a whole and by their last part.
    """
    candidates = list(known)
    close = difflib.get_close_matches(word, candidates, n=2, cutoff=0.65)
    leaf = word.rsplit(".", 1)[-1]
    leaves = {name.rsplit(".", 1)[-1] for name in candidates}
    for part in difflib.get_close_matches(leaf, leaves, n=2, cutoff=0.75):
        close += [name for name in candidates if name.rsplit(".", 1)[-1] == part and name not in close]
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""


def in_hydra_grammar(word: str) -> str:
    """Return an override in Hydra's grammar.

    An argument of a target of the user's, which no schema knows, is added; the name of a folder with signs that the
    grammar reads otherwise, or not at all, is quoted.
    """
    if re.match(r"\w+\.arguments[.=]", word):
        return f"++{word}"
    key, _, folder = word.partition("=")
    plain = re.fullmatch(r"[\w./-]*|'.*'|\".*\"", folder, flags=re.ASCII) or "${" in folder
    if key not in FOLDERS or plain:
        return word
    escaped = folder.replace("'", "\\'")
    return f"{key}='{escaped}'"


def refuse_unknown_words(words: Sequence[str], others: Sequence[str] = ()) -> None:
    """Raise ConfigError, with the nearest names, for a word that is not KEY=VALUE or names no group, option or field.

    Left to Hydra: options (``-m``), additions (``+key=…``), packages (``@``), Hydra's own groups, which its plugins
    add to, and its fields except the launcher's. others: further keys to suggest.
    """
    groups, names = group_options(), field_names()
    known = [*groups, *names, *others]
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("~") and key[1:] in names:
            raise ConfigError(f"{word}: every field of the config is needed; set {key[1:]}=… instead")
        if word.startswith(("-", "+", "~")) or "@" in key or key.startswith("hydra/"):
            continue
        if not equals or not key:
            raise ConfigError(f"{word}: must be KEY=VALUE" + ("" if word in known else nearest(word, known)))
        if key in groups and value.startswith("["):
            several = "; to measure under several, set measures=[A,B]" if key == "measure" else ""
            raise ConfigError(f"{key}={value}: choose one option{several}")
        if key in groups:
            # A list of plain names, as in a sweep; anything else is Hydra's to read.
            for option in value.split(",") if re.fullmatch(r"[\w,]+", value) else ():
                if option not in (*groups[key], "null"):
                    choices = ", ".join(groups[key])
                    hint = nearest(option, groups[key])
                    raise ConfigError(f"{key}={option}: no such option{hint}; choices: {choices}")
        elif key.startswith("hydra.launcher."):
            if key not in launcher_fields() and not any(key.startswith(f"{name}.") for name in launcher_fields()):
                raise ConfigError(f"{key}: no such field{nearest(key, launcher_fields())}")
        elif (
            not key.startswith("hydra.") and key not in names and not any(key.startswith(f"{name}.") for name in names)
        ):
            raise ConfigError(f"{key}: no such field or group{nearest(key, known) or '; see equisep --help'}")
