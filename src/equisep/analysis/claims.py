"""The paper's claims as conf/claims.yaml fixes them, and their verdicts over an experiment's seeds.

A claim names statistics and their thresholds. In each condition of a figure (for example each depth) a statistic has
one value per seed. A criterion holds if the whole 95 % confidence interval of the mean over seeds is on the right side.
A negative claim is about single seeds: none may meet all criteria. The verdict is "supported" if the claim holds in
every condition, otherwise "not supported"; "not run" if a condition is missing or has too few seeds.
"""

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

from equisep.analysis.statistics import Interval, interval_over_seeds
from equisep.config import ConfigError, conf_folder, group_options, nearest

if TYPE_CHECKING:
    import pandas as pd

# Names of the figures over all runs, which are judged but are no experiments.
OVERVIEW_NAMES = ("decay_ratio", "test_accuracy")
SUPPORTED, NOT_SUPPORTED, NOT_RUN, NO_CLAIM = "supported", "not supported", "not run", "no claim"


@dataclass(frozen=True)
class Criterion:
    """A statistic and its threshold. kind: at_most or at_least."""

    statistic: str
    kind: str
    threshold: float

    def margin(self, interval: Interval) -> float:
        """Return by how much the worse end of the interval (one seed: its value) meets the threshold; < 0: not met."""
        low, high = (interval.mean, interval.mean) if interval.n == 1 else (interval.low, interval.high)
        return self.threshold - high if self.kind == "at_most" else low - self.threshold

    def holds(self, interval: Interval) -> bool:
        """Whether the whole interval meets the threshold; False if a seed has no finite value."""
        return math.isfinite(interval.mean) and self.margin(interval) >= 0

    @property
    def bound(self) -> str:
        """The threshold, human-readable."""
        return f"{'≤' if self.kind == 'at_most' else '≥'} {self.threshold:g}".replace("-", "−")


@dataclass(frozen=True)
class Claim:
    """What a figure must show.

    seeds: the minimum per condition. premise: criteria that must hold for the claim to apply. rule: whether "all",
    "any" or "none" of the criteria must hold in a condition. changed: date and reason of each change.
    """

    name: str
    text: str
    seeds: int
    premise: tuple[Criterion, ...]
    criteria: tuple[Criterion, ...]
    rule: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One statistic in one condition, over seeds."""

    condition: str
    criterion: Criterion
    interval: Interval

    @property
    def holds(self) -> bool:
        """Whether the criterion holds in the condition."""
        return self.criterion.holds(self.interval)

    def __str__(self) -> str:
        where = f", {self.condition}" if self.condition else ""
        statistic = f"{self.criterion.statistic} {describe_interval(self.interval)}"
        return f"{statistic}{where} (threshold {self.criterion.bound})"


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict: it held in ``held`` of ``conditions`` conditions. missing: why it could not be judged."""

    claim: Claim
    status: str
    findings: tuple[Finding, ...]
    held: int
    conditions: int
    missing: str = ""

    @property
    def decisive(self) -> tuple[Finding, ...]:
        """The findings that decide the verdict: those that fail, or for each criterion the one nearest to failing."""
        failing = tuple(finding for finding in self.findings if not finding.holds)
        failed_premises = tuple(finding for finding in failing if finding.criterion in self.claim.premise)
        if failed_premises:
            return failed_premises
        if self.claim.rule != "any" and failing:
            return failing
        nearest: dict[Criterion, Finding] = {}
        for finding in self.findings:
            other = nearest.setdefault(finding.criterion, finding)
            nearest[finding.criterion] = min(other, finding, key=lambda one: one.criterion.margin(one.interval))
        return tuple(nearest.values())

    def __str__(self) -> str:
        if self.status == NOT_RUN:
            return f"{self.status}: {self.missing}"
        if self.status == NO_CLAIM:
            return f"{self.status} stated for this experiment in conf/claims.yaml"
        findings = "; ".join(map(str, self.decisive[:3])) + ("; …" if len(self.decisive) > 3 else "")
        return f"{self.status} (in {self.held} of {self.conditions}): {findings}"


def describe_interval(interval: Interval) -> str:
    """Return a mean with its interval and number of seeds, human-readable."""
    if interval.n == 1:
        return f"{interval.mean:.4g} (one seed, no interval)".replace("-", "−")
    return f"{interval.mean:.4g} [{interval.low:.4g}, {interval.high:.4g}], n = {interval.n}".replace("-", "−")


def load_claims() -> dict[str, Claim]:
    """Return the claims of conf/claims.yaml by experiment; raises ConfigError naming an invalid entry."""
    return dict(_parse((conf_folder() / "claims.yaml").read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def _parse(text: str) -> dict[str, Claim]:
    try:
        entries = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"conf/claims.yaml: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict):
        raise ConfigError("conf/claims.yaml: must map the names of experiments to claims")
    known = [*group_options()["experiment"], *OVERVIEW_NAMES]
    for name in entries:
        if name not in known:
            raise ConfigError(f"conf/claims.yaml: {name}: no such experiment{nearest(str(name), known)}")
    return {name: _read(name, entry) for name, entry in entries.items()}


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
    if not entry:
        raise ValueError("each rule needs statistics with at_most or at_least")
    criteria = []
    for statistic, sides in entry.items():
        for kind, threshold in sides.items():
            if kind not in ("at_most", "at_least"):
                raise ValueError(f"{statistic}: {kind}: must be at_most or at_least")
            if not isinstance(threshold, int | float) or not math.isfinite(threshold):
                raise ValueError(f"{statistic}: {kind}: {threshold}: must be a finite number")
            criteria.append(Criterion(statistic, kind, float(threshold)))
    return tuple(criteria)


def _read(name: str, entry: Mapping[str, Any]) -> Claim:
    try:
        rule = next(rule for rule in ("all", "any", "none") if rule in entry)
        premise = _read_criteria(entry["premise"]) if "premise" in entry else ()
        criteria, seeds, changed = _read_criteria(entry[rule]), int(entry["seeds"]), tuple(map(str, entry["changed"]))
        undated = [change for change in changed if not re.match(r"\d{4}-\d{2}-\d{2}", change)]
        if undated:
            raise ValueError(f"changed: {undated[0][:40]!r}: must begin with a date, YYYY-MM-DD")
        _refuse_undated_change(str(entry["fixed"]), (seeds, rule, premise, criteria), changed)
        return Claim(name, str(entry["claim"]), seeds, premise, criteria, rule, changed)
    except KeyError as error:
        raise ConfigError(f"conf/claims.yaml: {name}: {error} is missing") from None
    except (TypeError, ValueError, AttributeError, StopIteration) as error:
        raise ConfigError(f"conf/claims.yaml: {name}: {error}") from None


def _refuse_undated_change(fixed: str, rules: tuple[Any, ...], changed: Sequence[str]) -> None:
    """Raise ValueError unless the digest of rules is ``fixed``, or that of the last dated change that names one."""
    digest = hashlib.sha256(repr(rules).encode()).hexdigest()[:8]
    digests = [match.group(1) for change in changed if (match := re.search(r"\(([0-9a-f]{8})\)$", change))]
    if digest != (digests or [fixed])[-1]:
        raise ValueError(
            f"seeds or thresholds changed without a dated reason; add one to `changed`: 'YYYY-MM-DD: … ({digest})'"
        )


def claims_digest() -> str:
    """Return a digest of conf/claims.yaml, which a verdict records."""
    return hashlib.sha256((conf_folder() / "claims.yaml").read_bytes()).hexdigest()[:12]


def judge(claim: Claim, statistics: pd.DataFrame, conditions: Sequence[str], missing: str = "") -> Verdict:
    """Return the verdict of a claim.

    statistics: a row per condition and seed: the columns ``conditions``, seed and at least the claim's statistics. A
    statistic that does not exist (a diverged network) is NaN and fails the criterion. missing: why the claim cannot
    be judged, for example because runs are missing; the verdict is then "not run".
    """
    if statistics.empty:
        return Verdict(claim, NOT_RUN, (), 0, 0, missing or "no runs to judge")
    names = [criterion.statistic for criterion in (*claim.premise, *claim.criteria)]
    for name in names:
        if name not in statistics:
            hint = nearest(name, statistics.columns)
            raise ConfigError(f"conf/claims.yaml: {claim.name}: {name}: no such statistic{hint}")
    groups = statistics.groupby(list(conditions), sort=False) if len(conditions) else [((), statistics)]
    findings: list[Finding] = []
    held = too_few_seeds = 0
    for key, rows in groups:
        condition = ", ".join(name_value(name, value) for name, value in zip(conditions, key, strict=True))
        premise, results = (
            [Finding(condition, criterion, interval_over_seeds(rows[criterion.statistic])) for criterion in criteria]
            for criteria in (claim.premise, () if claim.rule == "none" else claim.criteria)
        )
        if claim.rule == "none":
            results = [_share_of_seeds(condition, claim.criteria, rows)]
        findings += [*premise, *results]
        combine = any if claim.rule == "any" else all
        held += combine(result.holds for result in results) and all(finding.holds for finding in premise)
        too_few_seeds += rows["seed"].nunique() < claim.seeds
    if too_few_seeds and not missing:
        missing = f"{too_few_seeds} of {len(groups)} conditions have fewer than {claim.seeds} seeds"
    status = NOT_RUN if missing else SUPPORTED if held == len(groups) else NOT_SUPPORTED
    return Verdict(claim, status, tuple(findings), held, len(groups), missing)


def _share_of_seeds(condition: str, criteria: Sequence[Criterion], rows: pd.DataFrame) -> Finding:
    """Return the share of seeds that meet all criteria, which must be zero for a negative claim."""
    met = np.ones(len(rows), dtype=bool)
    for criterion in criteria:
        values = rows[criterion.statistic].to_numpy()
        met &= values <= criterion.threshold if criterion.kind == "at_most" else values >= criterion.threshold
    bounds = ", ".join(f"{criterion.statistic} {criterion.bound}" for criterion in criteria)
    return Finding(condition, Criterion(f"share of seeds with {bounds}:", "at_most", 0.0), interval_over_seeds(met))


NAMES = {
    "sgd": "SGD",
    "momentum": "momentum",
    "adam": "Adam",
    "fashion_mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "narrow_wide": "narrow-wide",
    "wide_narrow": "wide-narrow",
    "mixed_widths": "mixed",
    "block": "per block",
    "layer": "per layer",
}


def name_value(column: str, value: Any) -> str:
    """Return a human-readable value of a column: "depth 8", "Adam", "rate 3e-5", "per block"."""
    if isinstance(value, str):
        # A data set's name may end with its size: "mnist 10×10", "mnist_10x10".
        word, blank, rest = value.partition(" ")
        return NAMES.get(word.removesuffix("_10x10").removesuffix("_32x32"), word) + blank + rest
    name = "rate" if column == "learning_rate" else column.replace("_", " ")
    return f"{name} {value:g}".replace("e-0", "e-")
