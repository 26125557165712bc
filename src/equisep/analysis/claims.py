"""The paper's claims as conf/claims.yaml fixes them: their statistics, bounds and rules."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from equisep.analysis.nulls import block_excesses, broken_stick_correlations, broken_stick_variations
from equisep.config import ConfigError, conf_folder, conf_folders, group_options, nearest, own_conf_folder

if TYPE_CHECKING:
    import pandas as pd

# Names of the figures over all runs, which are judged but are no experiments.
OVERVIEW_NAMES = ("decay_ratio", "test_accuracy")
# Unless a claim has its own: see the first lines of conf/claims.yaml.
KNOWN_SEEDS = (*range(1, 17), *range(666, 671))
# Which of the criteria must hold in a condition.
RULES = ("all", "any", "none")
# Kinds of criteria: bounds that are numbers, and those that are a point of the statistic's null distribution.
UPPER, LOWER = ("at_most", "below_null"), ("at_least", "above_null")
KEYS = ("claim", "seeds", "premise", *RULES, "full_text", "known_seeds", "fixed", "changed")
# What the statistics with a null distribution begin with.
WITH_NULL = ("r", "log_ratio_cv", "residual_excess")


@dataclass(frozen=True)
class Criterion:
    """A statistic and its bound.

    kind: at_most or at_least a threshold; below_null or above_null: at most, or at least, the point of the statistic's
    null distribution that chance passes, on the side of the law, with probability ``threshold`` (see
    equisep.analysis.nulls).
    """

    statistic: str
    kind: str
    threshold: float

    def bound(self, rows: pd.DataFrame) -> float:
        """Return the bound in a condition; rows: its statistics, with the number of points that a null depends on."""
        if self.kind in ("at_most", "at_least"):
            return self.threshold
        return _null_point(self.statistic, self.threshold, rows)

    def meets(self, values: Any, bound: float) -> Any:
        """Whether values are on the right side of a bound, elementwise."""
        return values <= bound if self.kind in UPPER else values >= bound


def _null_point(statistic: str, level: float, rows: pd.DataFrame) -> float:
    """Return the point of a statistic's null distribution that chance passes, on the law's side, at a level."""

    def points(suffix: str) -> int:
        return int(rows[f"points{suffix}"].max())

    if statistic == "residual_excess":
        layers, blocks = points("_layer") - 1, points("_block") - 1
        return float(np.quantile(block_excesses(layers, layers // blocks), 1 - level))
    name = "log_ratio_cv" if statistic.startswith("log_ratio_cv") else "r"
    distribution = broken_stick_variations if name == "log_ratio_cv" else broken_stick_correlations
    return float(np.quantile(distribution(points(statistic.removeprefix(name))), level))


@dataclass(frozen=True)
class Claim:
    """What a figure must show.

    seeds: the minimum per condition. premise: criteria that must hold for the claim to apply. rule: whether "all",
    "any" or "none" of the criteria must hold in a condition. full_text: whether the part of the paper that states the
    claim was at hand. changed: date and reason of each change. known_seeds: whose results were known, in part at least,
    when the claim was fixed.
    """

    name: str
    text: str
    seeds: int
    premise: tuple[Criterion, ...]
    criteria: tuple[Criterion, ...]
    rule: str
    full_text: bool
    changed: tuple[str, ...]
    known_seeds: tuple[int, ...] = KNOWN_SEEDS


def no_claim(name: str) -> Claim:
    """Return what stands in the place of a claim of an experiment that has none."""
    return Claim(name, "no claim stated", 0, (), (), "all", True, ())


def load_claims() -> dict[str, Claim]:
    """Return the claims of conf/claims.yaml and of the user's own claims.yaml by experiment.

    Raises ConfigError naming an invalid entry. A claim of the user's need not have ``fixed``, ``changed`` and
    ``known_seeds``; one for an experiment of ours takes the place of ours.
    """
    claims = dict(_parse((conf_folder() / "claims.yaml").read_text(encoding="utf-8"), "conf/claims.yaml"))
    own = own_conf_folder()
    if own and (own / "claims.yaml").is_file():
        claims |= _parse((own / "claims.yaml").read_text(encoding="utf-8"), f"{own}/claims.yaml")
    return claims


@lru_cache(maxsize=2)
def _parse(text: str, file: str) -> dict[str, Claim]:
    try:
        entries = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
    if entries is None and file != "conf/claims.yaml":
        return {}
    if not isinstance(entries, dict):
        raise ConfigError(f"{file}: must map the names of experiments to claims")
    known = [*group_options()["experiment"], *OVERVIEW_NAMES]
    for name in entries:
        if name not in known:
            raise ConfigError(f"{file}: {name}: no such experiment{nearest(str(name), known)}")
    return {name: _read(name, entry, file) for name, entry in entries.items()}


class _UniqueKeys(yaml.SafeLoader):
    """Refuses keys that are given twice, of which YAML would drop the first."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    repeated = [key for number, key in enumerate(keys) if key in keys[:number]]
    if repeated:
        raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]} is given twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _read_criteria(entry: Mapping[str, Mapping[str, Any]]) -> tuple[Criterion, ...]:
    if not entry or not isinstance(entry, dict):
        raise ValueError(f"each rule needs statistics with {', '.join((*UPPER, *LOWER))}")
    criteria = []
    for statistic, sides in entry.items():
        if not isinstance(sides, dict):
            raise ValueError(f"{statistic}: {sides}: must be one of {', '.join((*UPPER, *LOWER))} with its bound")
        for kind, threshold in sides.items():
            if kind not in (*UPPER, *LOWER):
                raise ValueError(f"{statistic}: {kind}: must be one of {', '.join((*UPPER, *LOWER))}")
            if not isinstance(threshold, int | float) or not math.isfinite(threshold):
                raise ValueError(f"{statistic}: {kind}: {threshold}: must be a finite number")
            if kind in (UPPER[1], LOWER[1]):
                _refuse_null(statistic, kind, threshold)
            criteria.append(Criterion(statistic, kind, float(threshold)))
        low, high = sides.get("at_least", -math.inf), sides.get("at_most", math.inf)
        if low > high:
            raise ValueError(f"{statistic}: at_least {low} and at_most {high} exclude each other")
    return tuple(criteria)


def _refuse_null(statistic: str, kind: str, level: float) -> None:
    if not statistic.startswith(WITH_NULL):
        raise ValueError(f"{statistic}: {kind}: has no null distribution; {', '.join(WITH_NULL)} have one")
    if not 0 < level < 1:
        raise ValueError(f"{statistic}: {kind}: {level}: is a probability, and must be between 0 and 1")


def _read(name: str, entry: Mapping[str, Any], file: str) -> Claim:
    own = file != "conf/claims.yaml"
    try:
        if not isinstance(entry, dict):
            raise ValueError(f"must have claim, seeds and one of {', '.join(RULES)}, not {entry!r:.40}")
        unknown = [str(key) for key in entry if key not in KEYS]
        if unknown:
            raise ValueError(f"{unknown[0]}: no such key{nearest(unknown[0], KEYS) or '; use ' + ', '.join(KEYS)}")
        rules = [rule for rule in RULES if rule in entry]
        if len(rules) > 1:
            raise ValueError(f"has {' and '.join(rules)}; one rule is needed")
        seeds = entry.get("seeds", 1)
        if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
            raise ValueError(f"seeds: {seeds}: must be an integer, at least 1")
        entry = {"changed": [], "known_seeds": []} | dict(entry) if own else entry
        rule = next((rule for rule in RULES if rule in entry), None)
        if rule is None:
            raise ValueError(f"needs one of {', '.join(RULES)}")
        premise = _read_criteria(entry["premise"]) if "premise" in entry else ()
        criteria, seeds, changed = _read_criteria(entry[rule]), int(entry["seeds"]), tuple(map(str, entry["changed"]))
        undated = [change for change in changed if not re.match(r"\d{4}-\d{2}-\d{2}", change)]
        if undated:
            raise ValueError(f"changed: {undated[0][:40]!r}: must begin with a date, YYYY-MM-DD")
        if not own or "fixed" in entry:
            _refuse_undated_change(str(entry["fixed"]), (seeds, rule, premise, criteria), changed)
        full_text = bool(entry.get("full_text", True))
        known = tuple(map(int, entry.get("known_seeds", KNOWN_SEEDS)))
        return Claim(name, str(entry["claim"]), seeds, premise, criteria, rule, full_text, changed, known)
    except KeyError as error:
        raise ConfigError(f"{file}: {name}: {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file}: {name}: {error}") from None


def _refuse_undated_change(fixed: str, rules: tuple[Any, ...], changed: Sequence[str]) -> None:
    """Raise ValueError unless the digest of rules is ``fixed``, or that of the last dated change that names one."""
    digest = hashlib.sha256(repr(rules).encode()).hexdigest()[:8]
    digests = [match.group(1) for change in changed if (match := re.search(r"\(([0-9a-f]{8})\)$", change))]
    if digest != (digests or [fixed])[-1]:
        raise ValueError(
            f"seeds or thresholds changed without a dated reason; add one to `changed`: 'YYYY-MM-DD: … ({digest})'"
        )


def claims_digest() -> str:
    """Return a digest of conf/claims.yaml and the user's own, which a verdict records."""
    files = (folder / "claims.yaml" for folder in conf_folders())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()[:12]


NAMES = {
    "sgd": "SGD",
    "momentum": "momentum",
    "adam": "Adam",
    "fashion_mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "fashion_mnist_10x10_random_labels": "random labels",
    "fashion_mnist_10x10_imbalanced": "imbalanced Fashion-MNIST",
    "vgg13": "VGG13",
    "alexnet": "AlexNet",
    "narrow_wide": "narrow-wide",
    "wide_narrow": "wide-narrow",
    "mixed_widths": "mixed",
    "fnn": "batch norm",
    "fnn_layer_norm": "layer norm",
    "fnn_kaiming": "no norm",
    "fnn_no_batch_norm": "no batch norm",
    "fnn_linear": "linear",
    "block": "per block",
    "layer": "per layer",
}


def name_value(column: str, value: Any) -> str:
    """Return a human-readable value of a column: "depth 8", "Adam", "rate 3e-5", "per block"."""
    if isinstance(value, str):
        # A data set's name may end with its size: "mnist 10×10", "mnist_10x10".
        word, blank, rest = value.partition(" ")
        return NAMES.get(word.removesuffix("_10x10").removesuffix("_32x32"), word) + blank + rest
    if column == "learning_rate":
        leading, _, exponent = f"{value:.6e}".partition("e")
        return f"rate {float(leading):g}e{int(exponent)}" if 0 < value < 0.01 else f"rate {value:g}"
    return f"{column.replace('_', ' ')} {value:g}".replace("e-0", "e-")
