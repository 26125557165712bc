"""Verdicts on claims, from the statistics of an experiment's networks.

In each condition of a figure (for example each depth) a criterion holds if the whole 95 % confidence interval of its
statistic is on the right side of the bound. It fails if the whole interval is on the wrong side, adjusted for the
number of a claim's criteria (Holm, 1979), and is undecided otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from equisep.analysis.claims import UPPER, Claim, Criterion, name_value
from equisep.analysis.statistics import CONFIDENCE, Interval, interval_over_seeds, share_interval
from equisep.config import ConfigError, nearest

if TYPE_CHECKING:
    import pandas as pd

REPRODUCED, PARTLY, CONTRADICTED = "reproduced", "partly", "contradicted"
UNDECIDED, NOT_TESTED, NO_CLAIM = "undecided", "not tested", "no claim"
STATUSES = (REPRODUCED, PARTLY, CONTRADICTED, UNDECIDED, NOT_TESTED)
# Of a criterion or a condition; a condition is out if the claim's premise fails in it.
HOLDS, FAILS, OUT = "holds", "fails", "out"
# A criterion fails if its one-sided p-value is at most this: the interval is two-sided.
FAILURE = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Finding:
    """One statistic in one condition. outcome: holds, fails or undecided; p_value: one-sided, of failing, adjusted."""

    condition: str
    criterion: Criterion
    bound: float
    interval: Interval
    outcome: str
    p_value: float

    @property
    def relation(self) -> str:
        """The bound, human-readable."""
        return f"{'≤' if self.criterion.kind in UPPER else '≥'} {self.bound:.4g}".replace("-", "−")

    def __str__(self) -> str:
        where = f", {self.condition}" if self.condition else ""
        statistic = f"{self.criterion.statistic} {describe_interval(self.interval)}"
        return f"{statistic}{where} (threshold {self.relation}: {self.outcome})"


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict.

    outcomes: of each condition, by its name. missing: why it could not be judged, or ''. later: the verdict on those
    seeds alone that were not known when the claims were fixed, '' where these are all or none. too_few: number of
    conditions with fewer seeds than the claim asks for.
    """

    claim: Claim
    status: str
    findings: tuple[Finding, ...]
    outcomes: Mapping[str, str]
    missing: str = ""
    later: str = ""
    too_few: int = 0

    @property
    def counts(self) -> str:
        """In how many conditions the claim holds, fails and is undecided, human-readable."""
        numbers = {kind: list(self.outcomes.values()).count(kind) for kind in (HOLDS, FAILS, UNDECIDED, OUT)}
        words = [
            f"{kind if kind != UNDECIDED else 'is undecided'} in {numbers[kind]}" for kind in numbers if kind != OUT
        ]
        judged = len(self.outcomes) - numbers[OUT]
        if not judged:
            where = f"in all {numbers[OUT]} conditions" if numbers[OUT] > 1 else "in the only condition"
            return f"the claim's premise fails {where}"
        text = f"{', '.join(words)} of {judged} conditions" if judged != 1 else "in the only condition"
        text += f"; {numbers[OUT]} without the claim's premise" if numbers[OUT] else ""
        return text + (f"; {self.too_few} with fewer than {self.claim.seeds} seeds" if self.too_few else "")

    @property
    def decisive(self) -> tuple[Finding, ...]:
        """The findings that decide the verdict: those that fail, else those undecided, else the nearest to failing."""
        judged = [finding for finding in self.findings if self.outcomes.get(finding.condition) != OUT]
        if not judged:
            return tuple(finding for finding in self.findings if finding.criterion in self.claim.premise)
        for outcome in (FAILS, UNDECIDED):
            found = tuple(finding for finding in judged if finding.outcome == outcome)
            if found and self.status != REPRODUCED:
                return found
        closest: dict[Criterion, Finding] = {}
        for finding in judged:
            other = closest.setdefault(finding.criterion, finding)
            closest[finding.criterion] = min(other, finding, key=lambda one: -one.p_value)
        return tuple(closest.values())

    def __str__(self) -> str:
        if self.status == NOT_TESTED:
            return f"{self.status}: {self.missing}"
        if self.status == NO_CLAIM:
            return f"{self.status} stated for this experiment in conf/claims.yaml"
        findings = "; ".join(map(str, self.decisive[:3])) + ("; …" if len(self.decisive) > 3 else "")
        later = f", on later seeds alone {self.later}" if self.later else ""
        return f"{self.status} ({self.counts}{later}): {findings}"


def describe_interval(interval: Interval) -> str:
    """Return an estimate with its interval and number of values, human-readable."""
    if interval.n == 1:
        return f"{interval.mean:.4g} (one seed, no interval)".replace("-", "−")
    return f"{interval.mean:.4g} [{interval.low:.4g}, {interval.high:.4g}], n = {interval.n}".replace("-", "−")


def judge(
    claim: Claim, statistics: pd.DataFrame, conditions: Sequence[str], *, missing: str = "", full_scale: bool = True
) -> Verdict:
    """Return the verdict of a claim.

    statistics: a row per condition and seed: the columns ``conditions``, seed and at least the claim's statistics, each
    a number or, for statistics over settings, an Interval (then with a column seeds, their number). A statistic that
    does not exist (a diverged network) is NaN. missing: why the claim cannot be judged, for example because runs are
    missing; the verdict is then "not tested". full_scale: whether the networks are those of the paper in size and
    learning rates, without which a claim is not contradicted.
    """
    if missing or statistics.empty:
        return Verdict(claim, NOT_TESTED, (), {}, missing or "no runs to judge")
    for criterion in (*claim.premise, *claim.criteria):
        if criterion.statistic not in statistics:
            hint = nearest(criterion.statistic, statistics.columns)
            raise ConfigError(f"claims.yaml: {claim.name}: {criterion.statistic}: no such statistic{hint}")
    if "seed" in statistics and statistics.duplicated([*conditions, "seed"]).any():
        raise ConfigError(f"{claim.name}: several values for one seed in a condition ({', '.join(conditions)})")
    by_condition = statistics.groupby(list(conditions), sort=False, dropna=False) if len(conditions) else None
    groups = [((), statistics)] if by_condition is None else list(by_condition)
    findings: list[Finding] = []
    seeds: dict[str, int] = {}
    for key, rows in groups:
        condition = ", ".join(name_value(name, value) for name, value in zip(conditions, key, strict=True))
        seeds[condition] = int(rows["seeds"].iloc[0]) if "seeds" in rows else rows["seed"].nunique()
        findings += [_find(condition, criterion, rows) for criterion in claim.premise]
        if claim.rule == "none":
            findings.append(_find_share(condition, claim.criteria, rows))
        else:
            findings += [_find(condition, criterion, rows) for criterion in claim.criteria]
    findings = _adjust(findings)
    outcomes = {
        condition: UNDECIDED if count < claim.seeds else _outcome(claim, findings, condition)
        for condition, count in seeds.items()
    }
    later = ""
    if "seed" in statistics and 0 < statistics["seed"].isin(claim.known_seeds).sum() < len(statistics):
        unknown = statistics[~statistics["seed"].isin(claim.known_seeds)]
        # One seed has no interval.
        if unknown["seed"].nunique() > 1:
            alone = judge(claim, unknown, conditions, full_scale=full_scale)
            later = alone.status + (f", with fewer than {claim.seeds} seeds" if alone.too_few else "")
    too_few = sum(count < claim.seeds for count in seeds.values())
    status = _status(list(outcomes.values()), full_scale)
    return Verdict(claim, status, tuple(findings), outcomes, later=later, too_few=too_few)


def _find(condition: str, criterion: Criterion, rows: pd.DataFrame) -> Finding:
    """Return the finding of a criterion in a condition, its failure not yet adjusted."""
    bound = criterion.bound(rows)
    first = rows[criterion.statistic].iloc[0]
    if isinstance(first, Interval):
        return _judge_interval(condition, criterion, bound, first)
    values = rows[criterion.statistic].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    # r and its kinds, such as r_first; r_gain is a difference.
    correlations = criterion.statistic.split("_")[0] == "r" and criterion.statistic != "r_gain"
    if len(finite) < len(values) and 2 * len(finite) < len(values):
        # Most seeds have no value.
        interval = interval_over_seeds(values, correlations=correlations)
        return Finding(condition, criterion, bound, interval, FAILS, 0.0)
    found = _judge_interval(condition, criterion, bound, interval_over_seeds(finite, correlations=correlations))
    if len(finite) < len(values) and found.outcome == HOLDS:
        # One seed without a value is enough not to hold.
        return replace(found, outcome=UNDECIDED)
    return found


def _judge_interval(condition: str, criterion: Criterion, bound: float, interval: Interval) -> Finding:
    low, high = interval.tail(bound)
    # The probability of an estimate this far on the wrong side, if the truth is the bound.
    p_value = high if criterion.kind in UPPER else low
    if interval.n == 1 or not math.isfinite(interval.mean):
        return Finding(condition, criterion, bound, interval, UNDECIDED, math.nan)
    worse = interval.high if criterion.kind in UPPER else interval.low
    outcome = HOLDS if criterion.meets(worse, bound) else FAILS if p_value <= FAILURE else UNDECIDED
    return Finding(condition, criterion, bound, interval, outcome, p_value)


def _find_share(condition: str, criteria: Sequence[Criterion], rows: pd.DataFrame) -> Finding:
    """Return the share of seeds that meet all criteria, which must be below one half for a negative claim."""
    met, missing = np.ones(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    bounds = []
    for criterion in criteria:
        bound, values = criterion.bound(rows), rows[criterion.statistic].to_numpy(dtype=float)
        met &= np.asarray(criterion.meets(values, bound))
        # An infinite value says that D does not fall, NaN that there is none.
        missing |= np.isnan(values)
        bounds.append(f"{criterion.statistic} {'≤' if criterion.kind in UPPER else '≥'} {bound:.4g}".replace("-", "−"))
    share = Criterion(f"share of seeds with {', '.join(bounds)}:", "at_most", 0.5)
    found = _judge_interval(condition, share, 0.5, share_interval(int(met.sum()), len(met)))
    if 2 * missing.sum() > len(missing):
        return replace(found, outcome=FAILS, p_value=0.0)
    return replace(found, outcome=UNDECIDED) if missing.any() and found.outcome == HOLDS else found


def _adjust(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with failures adjusted for their number (Holm, 1979)."""
    from statsmodels.stats.multitest import multipletests

    tested = [number for number, finding in enumerate(findings) if math.isfinite(finding.p_value)]
    if not tested:
        return list(findings)
    adjusted = multipletests([findings[number].p_value for number in tested], method="holm")[1]
    results = list(findings)
    for number, p_value in zip(tested, adjusted, strict=True):
        finding = findings[number]
        failed = finding.outcome == FAILS and p_value > FAILURE
        results[number] = replace(finding, p_value=float(p_value), outcome=UNDECIDED if failed else finding.outcome)
    return results


def _outcome(claim: Claim, findings: Sequence[Finding], condition: str) -> str:
    """Return whether a claim holds, fails or is undecided in a condition, or the condition is out."""
    here = [finding for finding in findings if finding.condition == condition]
    premise = [finding.outcome for finding in here if finding.criterion in claim.premise]
    results = [finding.outcome for finding in here if finding.criterion not in claim.premise]
    if FAILS in premise:
        return OUT
    if UNDECIDED in premise:
        return UNDECIDED
    decisive, other = (HOLDS, FAILS) if claim.rule == "any" else (FAILS, HOLDS)
    if decisive in results:
        return decisive
    return other if set(results) == {other} else UNDECIDED


def _status(outcomes: Sequence[str], full_scale: bool) -> str:
    judged = [outcome for outcome in outcomes if outcome != OUT]
    if judged and set(judged) == {HOLDS}:
        return REPRODUCED
    if HOLDS in judged and FAILS in judged:
        return PARTLY
    return CONTRADICTED if judged and set(judged) == {FAILS} and full_scale else UNDECIDED
