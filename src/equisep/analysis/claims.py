"""The paper's claims as conf/claims.yaml fixes them, and their verdicts over an experiment's seeds.

A claim names statistics and their thresholds. In each condition of a figure (each depth, say) a
statistic has one value a seed; the criterion holds there if the whole 95 % interval of the mean over seeds is
on the right side. A negative claim is about single seeds: none may meet all criteria. The verdict is "supported"
when that is so in every condition, else "not supported", and "not run" where a condition is missing or has fewer
seeds than the claim asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from equisep.analysis.statistics import Interval, interval_over_seeds
from equisep.config import ConfigError, conf_folder

if TYPE_CHECKING:
    import pandas as pd

SUPPORTED, NOT_SUPPORTED, NOT_RUN = "supported", "not supported", "not run"


@dataclass(frozen=True)
class Criterion:
    """A statistic and the side of a threshold it must be on. kind: at_most or at_least."""

    statistic: str
    kind: str
    threshold: float

    def margin(self, interval: Interval) -> float:
        """Return how far the worse end of the interval, or a single seed's value, is on the right side; < 0: not."""
        low, high = (interval.mean, interval.mean) if interval.n == 1 else (interval.low, interval.high)
        return self.threshold - high if self.kind == "at_most" else low - self.threshold

    def holds(self, interval: Interval) -> bool:
        """Whether the whole interval is on the right side; never where a seed has no finite value."""
        return math.isfinite(interval.mean) and self.margin(interval) >= 0

    @property
    def bound(self) -> str:
        """The threshold, for a person."""
        return f"{'≤' if self.kind == 'at_most' else '≥'} {self.threshold:g}".replace("-", "−")


@dataclass(frozen=True)
class Claim:
    """What a figure must show.

    seeds: fewest a condition needs. premise: criteria without which the claim says nothing of a condition. together:
    whether all, any or none of the criteria must hold in it. changed: date and reason of each change.
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
        told = f"{self.criterion.statistic} {describe_interval(self.interval)}{where}"
        return f"{told} (wanted {self.criterion.bound})"


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict. held, conditions: in how many conditions of how many it held. missing: why it was not run."""

    claim: Claim
    status: str
    findings: tuple[Finding, ...]
    held: int
    conditions: int
    missing: str = ""

    @property
    def decisive(self) -> tuple[Finding, ...]:
        """The findings that speak: those that fail, or of each statistic the one nearest to failing."""
        failing = tuple(finding for finding in self.findings if not finding.holds)
        unfounded = tuple(finding for finding in failing if finding.criterion in self.claim.premise)
        if unfounded:
            return unfounded
        if self.claim.rule != "any" and failing:
            return failing
        nearest: dict[Criterion, Finding] = {}
        for finding in self.findings:
            best = nearest.setdefault(finding.criterion, finding)
            if finding.criterion.margin(finding.interval) < best.criterion.margin(best.interval):
                nearest[finding.criterion] = finding
        return tuple(nearest.values())

    def __str__(self) -> str:
        if self.status == NOT_RUN:
            return f"{self.status}: {self.missing}"
        told = "; ".join(map(str, self.decisive[:3])) + ("; …" if len(self.decisive) > 3 else "")
        return f"{self.status} (in {self.held} of {self.conditions}): {told}"


def describe_interval(interval: Interval) -> str:
    """Return a mean with its interval and number of seeds, for a person."""
    if interval.n == 1:
        return f"{interval.mean:.4g} (one seed, no interval)".replace("-", "−")
    return f"{interval.mean:.4g} [{interval.low:.4g}, {interval.high:.4g}], n = {interval.n}".replace("-", "−")


def load_claims() -> dict[str, Claim]:
    """Return the claims of conf/claims.yaml by experiment; raises ConfigError naming the entry that is wrong."""
    entries = yaml.safe_load((conf_folder() / "claims.yaml").read_text())
    return {name: _read(name, entry) for name, entry in entries.items()}


def _read_criteria(entry: Mapping[str, Mapping[str, Any]]) -> tuple[Criterion, ...]:
    criteria = tuple(
        Criterion(statistic, kind, float(threshold))
        for statistic, sides in entry.items()
        for kind, threshold in sides.items()
    )
    if any(criterion.kind not in ("at_most", "at_least") for criterion in criteria):
        raise ValueError("give statistics with at_most or at_least")
    return criteria


def _read(name: str, entry: Mapping[str, Any]) -> Claim:
    try:
        rule = next(rule for rule in ("all", "any", "none") if rule in entry)
        premise, criteria = _read_criteria(entry.get("premise", {})), _read_criteria(entry[rule])
        if not criteria:
            raise ValueError("give statistics with at_most or at_least")
        changed = tuple(map(str, entry["changed"]))
        return Claim(name, str(entry["claim"]), int(entry["seeds"]), premise, criteria, rule, changed)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise ConfigError(f"conf/claims.yaml: {name}: {error}") from None


def judge(claim: Claim, statistics: pd.DataFrame, conditions: Sequence[str], lacking: str = "") -> Verdict:
    """Return the verdict of a claim.

    statistics: a row per condition and seed: the columns of ``conditions``, seed, then at least the claim's
    statistics; a seed without one (a diverged network) is NaN and fails the criterion. lacking: why the claim
    cannot be judged, where runs that it is about are not there; the verdict is then "not run".
    """
    if statistics.empty:
        return Verdict(claim, NOT_RUN, (), 0, 0, lacking or "no runs to judge")
    groups = statistics.groupby(list(conditions), sort=False) if len(conditions) else [((), statistics)]
    findings: list[Finding] = []
    held = few = count = 0
    for key, rows in groups:
        condition = ", ".join(name_value(name, value) for name, value in zip(conditions, key, strict=True))
        founded = [_find(condition, criterion, rows) for criterion in claim.premise]
        found = (
            [_share_of_seeds(condition, claim.criteria, rows)]
            if claim.rule == "none"
            else [_find(condition, criterion, rows) for criterion in claim.criteria]
        )
        findings += [*founded, *found]
        holding = [finding.holds for finding in found]
        holds = any(holding) if claim.rule == "any" else all(holding)
        held += holds and all(finding.holds for finding in founded)
        few += rows["seed"].nunique() < claim.seeds
        count += 1
    if few and not lacking:
        lacking = f"{few} of {count} conditions have fewer than {claim.seeds} seeds"
    status = NOT_RUN if lacking else SUPPORTED if held == count else NOT_SUPPORTED
    return Verdict(claim, status, tuple(findings), held, count, lacking)


def _find(condition: str, criterion: Criterion, rows: pd.DataFrame) -> Finding:
    return Finding(condition, criterion, interval_over_seeds(rows[criterion.statistic]))


def _share_of_seeds(condition: str, criteria: Sequence[Criterion], rows: pd.DataFrame) -> Finding:
    """Return the share of seeds that meet all criteria, which a negative claim wants to be none."""
    met = np.ones(len(rows), dtype=bool)
    for criterion in criteria:
        values = rows[criterion.statistic].to_numpy()
        met &= values <= criterion.threshold if criterion.kind == "at_most" else values >= criterion.threshold
    wanted = ", ".join(f"{criterion.statistic} {criterion.bound}" for criterion in criteria)
    return Finding(condition, Criterion(f"share of seeds with {wanted}:", "at_most", 0.0), interval_over_seeds(met))


NAMES = {
    "sgd": "SGD",
    "momentum": "momentum",
    "adam": "Adam",
    "fashion_mnist_10x10": "Fashion-MNIST",
    "cifar10_10x10": "CIFAR-10",
    "fashion_mnist_32x32": "Fashion-MNIST",
    "cifar10_32x32": "CIFAR-10",
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
    """Return a value of a column as a person says it: "depth 8", "Adam", "rate 3e-5", "per block"."""
    if isinstance(value, str):
        # A data set may come with its size: "mnist 10×10".
        word, blank, rest = value.partition(" ")
        return NAMES.get(word, word) + blank + rest
    name = "rate" if column == "learning_rate" else column.replace("_", " ")
    return f"{name} {value:g}".replace("e-0", "e-")
