"""From overrides to typed configs: composition by Hydra, validation, and one-line error messages."""

import difflib
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from equisep.config.architectures import FAMILIES
from equisep.config.conventions import set_first_convention
from equisep.config.datasets import CustomDataset
from equisep.config.schema import Config
from equisep.config.validation import ConfigError
from equisep.config.vocabulary import conf_folder, group_options, in_hydra_grammar, nearest, own_conf_folder


@cache
def register() -> None:
    """Register the schema with Hydra; the files in conf/ refer to its nodes in their defaults."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for family, node in FAMILIES.items():
        store.store(group="architecture", name=f"schema_{family}", node=node)
    store.store(group="dataset", name="schema_custom", node=CustomDataset)


def compose_config(overrides: Sequence[str]) -> Config:
    """Return the config that ``equisep OVERRIDES…`` composes.

    Raises as :func:`compose_sweep`, and ConfigError where the config is not valid.
    """
    (config,) = compose_sweep([overrides])
    if isinstance(config, ConfigError):
        raise config
    return config


def compose_sweep(jobs: Sequence[Sequence[str]], config_name: str = "config") -> list[Config | ConfigError]:
    """Return for each job of a sweep, described by its overrides, its config or the error that makes it invalid.

    Within ``hydra.main`` the command line's search path applies, elsewhere conf/. Raises HydraException or ConfigError
    where an override cannot be applied at all (such as an unknown key): no job of such a sweep should run.
    """
    with _initialized() as own_search_path:
        composer = _Composer(config_name, own_search_path)
        if len(jobs) == 1:
            return [composer.validated(jobs[0])]
        return [composer.compose(overrides) for overrides in jobs]


def sweep_grid(experiment: str) -> dict[str, str]:
    """Return the keys that an experiment's file sweeps over, in order, each with its comma-separated values.

    Raises ConfigError if the file cannot be composed.
    """
    with _initialized() as own_search_path:
        try:
            if own_search_path:
                return _read_grid(experiment, None)
            return dict(_read_grid_of_conf(experiment, own_conf_folder()))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(format_config_error(error)) from None


def validate_config(composed: DictConfig) -> Config:
    """Return the composed Hydra config as a typed, validated Config.

    Raises ConfigError, in one line, for a key that is not in the schema (also one added with ``+``), a value out of
    range, a missing value, or a depth without an entry in the optimizer's table of learning rates.
    """
    _refuse_unknown_keys(composed, "")
    try:
        config = OmegaConf.to_object(composed)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: a value is missing; set {error.full_key}=…") from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    assert isinstance(config, Config)
    if config.optimizer.learning_rate is None:
        config.optimizer.learning_rate = _look_up_learning_rate(config)
    return set_first_convention(config)


@contextmanager
def _initialized() -> Iterator[bool]:
    """Initialise Hydra with conf/ if it is not; the value is whether it was, perhaps with another search path."""
    register()
    if GlobalHydra.instance().is_initialized():
        yield True
    else:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            yield False


def _search_path(own: Path | None) -> list[str]:
    """Return the override by which the user's own folder of configuration is searched too."""
    return [f"hydra.searchpath=[file://{own}]"] if own else []


@contextmanager
def _readable(groups: Sequence[str]) -> Iterator[None]:
    """Raise ConfigError, in one line, for a file that is no YAML and for a value that no group can have."""
    try:
        yield
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    except ConfigError:
        raise
    except ValueError as error:
        # Hydra's own checks of a group's value.
        raise ConfigError(f"{' '.join(groups)}: {str(error).splitlines()[0]}") from None


def _compose_groups(config_name: str, groups: tuple[str, ...], own: Path | None) -> bytes:
    """Return the composed config, pickled: loading it makes a copy, much faster than deepcopy does."""
    with _readable(groups):
        return pickle.dumps(compose(config_name, [*_search_path(own), *groups]))


def _read_grid(experiment: str, own: Path | None) -> dict[str, str]:
    overrides = [*_search_path(own), f"experiment={experiment}"]
    with _readable(overrides):
        whole = compose("config", overrides, return_hydra_config=True)
    return {str(key): str(values) for key, values in (whole.hydra.sweeper.params or {}).items()}


# Kept for the whole process, since figures and reports compose the same groups again and again.
_compose_groups_of_conf = lru_cache(maxsize=256)(_compose_groups)
_read_grid_of_conf = lru_cache(maxsize=256)(_read_grid)


class _Composer:
    """Composes the jobs of one sweep; what several jobs share is composed once.

    Composing a choice of groups takes Hydra many times as long as setting fields in a copy of the result
    (``python -m benchmarks.planning``). Groups are therefore composed once, and jobs that differ only in their seed
    share one config unless a field depends on it.
    """

    def __init__(self, config_name: str, own_search_path: bool) -> None:
        self.config_name = config_name
        self.shared: dict[tuple[str, ...], Config | ConfigError | None] = {}
        self.own = None if own_search_path else own_conf_folder()
        self.compose_groups: Callable[[str, tuple[str, ...], Path | None], bytes] = _compose_groups_of_conf
        self.is_group: Callable[[str], bool] = group_options().__contains__
        if own_search_path:
            loader = GlobalHydra.instance().config_loader()
            self.compose_groups = lru_cache(maxsize=None)(_compose_groups)
            self.is_group = lru_cache(maxsize=None)(lambda key: bool(loader.get_group_options(key)))

    def compose(self, overrides: Sequence[str]) -> Config | ConfigError:
        """Return a job's config, or the error that makes it invalid."""
        seeds = [override for override in overrides if re.fullmatch(r"seed=\d+", override)]
        if len(seeds) != 1:
            return self.validated(overrides)
        others = tuple(override for override in overrides if override not in seeds)
        if others not in self.shared:
            self.shared[others] = self._without_seed(others)
        shared = self.shared[others]
        if shared is None:
            return self.validated(overrides)
        try:
            # A seed out of range raises here.
            return shared if isinstance(shared, ConfigError) else replace(shared, seed=int(seeds[0].split("=")[1]))
        except ConfigError as error:
            return error

    def _without_seed(self, overrides: tuple[str, ...]) -> Config | ConfigError | None:
        """Return the result shared by all seeds with these overrides; None where a field may refer to the seed."""
        composed = self._composed([*overrides, "seed=0"])
        if _refers_to_seed(OmegaConf.to_container(composed, resolve=False)):
            return None
        return _validated(composed)

    def validated(self, overrides: Sequence[str]) -> Config | ConfigError:
        """Return the config of overrides, or the error that makes it invalid."""
        return _validated(self._composed(overrides))

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        parsed = [_parse(override) for override in overrides]
        # Those that only change the value of a field: no choice of a group, no addition or removal.
        changes = [change for change in parsed if change.type == OverrideType.CHANGE and change.package is None]
        set_fields = [change for change in changes if not self.is_group(change.key_or_group)]
        groups = tuple(str(override.input_line) for override in parsed if override not in set_fields)
        composed: DictConfig = pickle.loads(self.compose_groups(self.config_name, groups, self.own))
        for override in set_fields:
            _set_field(composed, override)
        return composed


def _validated(composed: DictConfig) -> Config | ConfigError:
    try:
        return validate_config(composed)
    except ConfigError as error:
        return error


def _refers_to_seed(values: Any) -> bool:
    """Return whether plain values contain an interpolation that names a seed, such as ``${seed}``."""
    if isinstance(values, dict):
        return any(map(_refers_to_seed, values.values()))
    if isinstance(values, list):
        return any(map(_refers_to_seed, values))
    return isinstance(values, str) and re.search(r"\$\{[^}]*seed", values) is not None


def _set_field(composed: DictConfig, override: Override) -> None:
    """Set the field that an override names; raises ConfigError for an unknown field or a value of another type."""
    *path, key = override.key_or_group.split(".")
    try:
        OmegaConf.update(composed, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException as error:
        parent = OmegaConf.select(composed, ".".join(path)) if path else composed
        if (
            isinstance(error, ConfigKeyError | ConfigAttributeError)
            and isinstance(parent, DictConfig)
            and key not in parent
        ):
            raise _unknown_key("".join(f"{part}." for part in path), key, list(map(str, parent))) from None
        raise ConfigError(_in_our_words(f"{override.input_line}; {str(error).splitlines()[0]}")) from None


def _unknown_key(path: str, key: str, keys: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(key, keys, n=1)
    hint = f"did you mean {path}{close[0]}?" if close else f"choose one of {', '.join(keys)}"
    return ConfigError(f"{path}{key}: no such key; {hint}")


@lru_cache(maxsize=4096)
def _parse(override: str) -> Override:
    return OverridesParser.create().parse_override(in_hydra_grammar(override))


def _refuse_unknown_keys(node: DictConfig, path: str) -> None:
    node_type = OmegaConf.get_type(node)
    if node_type is None or not is_dataclass(node_type):
        return
    keys = [f.name for f in fields(node_type)]
    for key in map(str, node):
        if key not in keys:
            raise _unknown_key(path, key, keys)
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            _refuse_unknown_keys(child, f"{path}{key}.")


def _look_up_learning_rate(config: Config) -> float:
    depth, rates = getattr(config.architecture, "depth", None), config.optimizer.learning_rates
    if depth is None:
        family = config.architecture.family
        raise ConfigError(f"optimizer.learning_rate=null: no default for architecture.family={family}; set a value")
    if depth not in rates:
        table = ", ".join(f"{key}: {rate:g}" for key, rate in rates.items())
        near = rates[min(rates, key=lambda key: abs(key - depth))] if rates else 0.001
        problem = (
            f"no rate in optimizer.learning_rates ({table}); set one, for example optimizer.learning_rate={near:g}"
        )
        raise ConfigError(f"architecture.depth={depth}: {problem}")
    return rates[depth]


def format_config_error(error: Exception) -> str:
    """Return a composition error of Hydra or OmegaConf, with its causes, as one line."""
    parts: list[str] = []
    link: BaseException | None = error
    while link is not None:
        lines = [line.strip() for line in str(link).splitlines()]
        parts += [line.rstrip(".") for line in lines if line and not line.startswith(_DETAILS)]
        link = link.__cause__
    return _in_our_words("; ".join(dict.fromkeys(parts)).replace(":;", ":"))


def _in_our_words(message: str) -> str:
    """Return messages of Hydra and OmegaConf that users meet as ours are; any other one as it is."""
    for pattern, words in _WORDS.items():
        if found := re.fullmatch(pattern, message):
            return words(*found.groups())
    return message


def _no_such_option(group: str, option: str, listed: str) -> str:
    options = listed.split("; ")
    return f"{group}={option}: no such option{nearest(option, options)}; choices: {', '.join(options)}"


_KINDS = {"Integer": "an integer", "Float": "a number", "Boolean": "true or false"}
_MERGING = r"(?:Error merging override )?\+*"
_WORDS: dict[str, Callable[..., str]] = {
    _MERGING + r"(\S+?=.*?); Value '.*' .*could not be converted to (\w+).*": lambda given, kind: (
        f"{given}: must be {_KINDS.get(kind, kind)}"
    ),
    r".*Could not find '([\w/]+)/(\w+)'; Available options in '.*?': (.*)": _no_such_option,
    r".*Ambiguous value for argument '(.*?)'.*": lambda given: (
        f"{given}: is a sweep; add -m to the command, or set a list as KEY=[A,B]"
    ),
    _MERGING + r"(\S+?)=(.*?); Invalid value assigned: .* list or tuple.*": lambda name, value: (
        f"{name}={value}: must be a list, such as [{value}]"
    ),
    _MERGING + r"(\S+?)=(.*?); Cannot merge DictConfig with ListConfig": lambda name, value: (
        f"{name}={value}: must be a mapping; set {name}.NAME=VALUE"
    ),
    _MERGING + r"(\S+?=.*?); field '.*' is not Optional": lambda given: f"{given}: must have a value",
    r"Could not override '(\S+)'; Key '.*' not in '(\w+)'": lambda name, kind: f"{name}: {kind} has no such field",
}

# Lines of Hydra's and OmegaConf's messages that only help their developers, or mislead.
_DETAILS = ("full_key", "object_type", "reference_type", "To append", "Config search path", "provider=", "See https")
