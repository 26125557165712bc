"""Conventions of measuring D: from which passes of a network its features are taken.

A convention has a name, that of a file in conf/measure, and three fields of a measure: batch_norm, order, batch_size.
``measures=[paper,evaluation]`` asks for several at once; all other fields of the measure hold for each of them.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import yaml

from equisep.config.architectures import Architecture
from equisep.config.schema import Config
from equisep.config.validation import ConfigError, require
from equisep.config.vocabulary import conf_folder, group_options, nearest

PAPER = "paper"
# Of networks without batch normalisation, for which every convention gives the same D.
ALL_CONVENTIONS = "all conventions"
CONVENTION_FIELDS = ("batch_norm", "order", "batch_size")


@cache
def conventions() -> dict[str, dict[str, Any]]:
    """Return the fields of each convention of conf/measure, by name."""
    files = {name: conf_folder() / f"measure/{name}.yaml" for name in group_options()["measure"]}
    read = {name: yaml.safe_load(file.read_text(encoding="utf-8")) for name, file in files.items()}
    # The other files state their difference from the paper's.
    return {
        name: {field: values.get(field, read[PAPER][field]) for field in CONVENTION_FIELDS}
        for name, values in read.items()
    }


def convention_of(settings: Mapping[str, Any]) -> str:
    """Return the name of a measure's convention, or its fields as text: "batch, shuffled, 200".

    settings: the measure's identity, as plain containers.
    """
    fields = {"order": "stored"} | {name: settings[name] for name in CONVENTION_FIELDS if name in settings}
    named = [name for name, values in conventions().items() if values == fields]
    return named[0] if named else ", ".join(str(fields[name]) for name in CONVENTION_FIELDS)


def has_batch_norm(architecture: Architecture) -> bool:
    """Whether networks of an architecture have batch normalisation; without it, all conventions are one."""
    return bool(getattr(architecture, "batch_norm", True))


def by_convention(config: Config) -> tuple[Config, ...]:
    """Return the config once for each convention that it asks for, which then is that of its measure."""
    names = config.measures or []
    if not names:
        return (config,)
    if not has_batch_norm(config.architecture):
        names = names[:1]
    return tuple(replace(config, measure=replace(config.measure, **conventions()[name])) for name in names)


def set_first_convention(config: Config) -> Config:
    """Return the config with the first convention that it asks for in its measure.

    Raises ConfigError for an unknown or repeated name, and for a measure with a convention of its own.
    """
    names = config.measures or []
    for name in names:
        if name not in conventions():
            hint = nearest(name, conventions())
            raise ConfigError(f"measures={name}: no such convention{hint}; choices: {', '.join(conventions())}")
    require(len(set(names)) == len(names), "measures", f"[{','.join(names)}]", "must be distinct")
    if not names:
        return config
    for name in CONVENTION_FIELDS:
        own, usual = getattr(config.measure, name), conventions()[PAPER][name]
        remedy = f"measures=[{','.join(names)}] supplies it; set measures=null"
        require(own == usual, f"measure.{name}", own, remedy)
    return replace(config, measure=replace(config.measure, **conventions()[names[0]]))
