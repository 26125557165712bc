"""Verdicts: criteria judged by intervals, conditions by rules, and claims by their conditions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from equisep.analysis.claims import Claim, Criterion
from equisep.analysis.statistics import correlation_interval
from equisep.analysis.verdicts import CONTRADICTED, NOT_TESTED, PARTLY, REPRODUCED, UNDECIDED, judge
from equisep.config import ConfigError


def claim(rule: str = "all", seeds: int = 3, premise: tuple[Criterion, ...] = ()) -> Claim:
    criteria = (Criterion("r", "at_most", -0.97), Criterion("gain", "at_least", 0.1))
    return Claim("width", "A claim.", seeds, premise, criteria, rule, True, ())


def statistics(r: list[float], gain: list[float], depth: int = 4) -> pd.DataFrame:
    return pd.DataFrame({"depth": depth, "seed": range(len(r)), "r": r, "gain": gain})


GOOD, WIDE, BAD = [-0.99, -0.985, -0.988, -0.99], [-0.999, -0.99, -0.95, -0.96], [-0.5, -0.6, -0.4, -0.55]
HIGH, LOW, SPREAD = [0.2, 0.3, 0.25, 0.3], [0.0, 0.01, 0.02, 0.01], [-0.3, 0.4, 0.5, 0.1]


@pytest.mark.parametrize(
    ("rule", "r", "gain", "status"),
    [
        ("all", GOOD, HIGH, REPRODUCED),
        ("all", WIDE, HIGH, UNDECIDED),
        ("all", GOOD, SPREAD, UNDECIDED),
        ("all", GOOD, LOW, CONTRADICTED),
        ("all", WIDE, LOW, CONTRADICTED),
        # A seed without a value: it cannot hold, but it may fail.
        ("all", [*GOOD[:3], math.nan], HIGH, UNDECIDED),
        ("all", [*BAD[:3], math.nan], HIGH, CONTRADICTED),
        ("all", [GOOD[0], math.nan, math.nan, math.nan], HIGH, CONTRADICTED),
        ("all", [GOOD[0], GOOD[1], math.nan, math.inf], HIGH, UNDECIDED),
        ("any", BAD, HIGH, REPRODUCED),
        ("any", BAD, LOW, CONTRADICTED),
        ("any", BAD, SPREAD, UNDECIDED),
        ("any", WIDE, LOW, UNDECIDED),
        # Four seeds are too few to say that less than half of all would meet the criteria.
        ("none", BAD, HIGH, UNDECIDED),
        ("none", BAD * 2, HIGH * 2, REPRODUCED),
        ("none", [math.nan] * 6, [0.2] * 6, CONTRADICTED),
        ("none", [*BAD, *BAD, math.nan], [0.2] * 9, UNDECIDED),
        # An infinite gain is one.
        ("none", BAD * 2, [math.inf] * 8, REPRODUCED),
        ("none", GOOD * 2, HIGH * 2, CONTRADICTED),
        ("none", [*GOOD, *BAD], HIGH * 2, UNDECIDED),
    ],
)
def test_the_whole_interval_is_on_one_side_or_the_claim_is_undecided(
    rule: str, r: list[float], gain: list[float], status: str
) -> None:
    verdict = judge(claim(rule), statistics(r, gain), ["depth"])
    assert verdict.status == status, str(verdict)
    assert "depth 4" in str(verdict)


def test_conditions_are_counted_and_the_failing_one_is_named() -> None:
    both = pd.concat([statistics(GOOD, HIGH), statistics(BAD, HIGH, depth=8)])
    verdict = judge(claim(), both, ["depth"])
    assert (verdict.status, dict(verdict.outcomes)) == (PARTLY, {"depth 4": "holds", "depth 8": "fails"})
    assert verdict.counts == "holds in 1, fails in 1, is undecided in 0 of 2 conditions"
    (finding,) = verdict.decisive
    assert str(finding).startswith("r −0.5162 [−0.6371, −0.3704]")
    assert str(finding).endswith("n = 4, depth 8 (threshold ≤ −0.97: fails)")


@pytest.mark.parametrize(
    ("outcomes", "full_scale", "status"),
    [
        ((GOOD, GOOD), True, REPRODUCED),
        ((GOOD, WIDE), True, UNDECIDED),
        ((BAD, WIDE), True, UNDECIDED),
        ((BAD, BAD), True, CONTRADICTED),
        ((BAD, BAD), False, UNDECIDED),
        ((GOOD, BAD), False, PARTLY),
    ],
)
def test_the_verdict_is_that_of_all_conditions(
    outcomes: tuple[list[float], ...], full_scale: bool, status: str
) -> None:
    rows = pd.concat([statistics(r, HIGH, depth) for depth, r in enumerate(outcomes)])
    assert judge(claim(), rows, ["depth"], full_scale=full_scale).status == status


def test_missing_runs_are_not_tested_and_too_few_seeds_undecided() -> None:
    incomplete = judge(claim(), statistics(GOOD, HIGH), ["depth"], missing="2 runs are missing")
    assert (incomplete.status, str(incomplete)) == (NOT_TESTED, "not tested: 2 runs are missing")
    assert judge(claim(), statistics([], []), ["depth"]).status == NOT_TESTED
    too_few = judge(claim(seeds=5), statistics(GOOD, HIGH), ["depth"])
    assert (too_few.status, dict(too_few.outcomes)) == (UNDECIDED, {"depth 4": UNDECIDED})
    assert too_few.counts == "in the only condition; 1 with fewer than 5 seeds"
    one = judge(claim(seeds=1), statistics([-0.98], [0.2]), [])
    assert one.status == UNDECIDED
    assert "r −0.98 (one seed, no interval)" in str(one)


def test_a_failed_premise_takes_a_condition_out_and_an_undecided_one_leaves_it_undecided() -> None:
    learns = claim("none", premise=(Criterion("accuracy", "at_least", 0.9),))

    def rows(accuracy: list[float], depth: int) -> pd.DataFrame:
        return statistics(BAD * 2, HIGH * 2, depth).assign(accuracy=accuracy)

    dead, able, mixed = rows([0.1, 0.12] * 4, 20), rows([0.95, 0.96] * 4, 4), rows([0.6, 0.99] * 4, 8)
    assert judge(learns, dead, ["depth"]).status == UNDECIDED
    verdict = judge(learns, pd.concat([able, dead]), ["depth"])
    assert (verdict.status, verdict.outcomes["depth 20"]) == (REPRODUCED, "out")
    assert verdict.counts.endswith("; 1 without the claim's premise")
    assert judge(learns, pd.concat([able, mixed]), ["depth"]).status == UNDECIDED


def test_failures_are_adjusted_for_their_number() -> None:
    """A criterion that just fails by itself is undecided among twenty others, as one of them may by chance."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=6)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    # The mean is 2.8 standard errors below the bound: p = 0.019 with five degrees of freedom.
    just = pd.DataFrame({"seed": range(6), "depth": 0, "x": 1 - 2.8 / math.sqrt(6) + noise})
    others = [just.assign(depth=depth, x=3 + noise) for depth in range(1, 20)]
    alone = Claim("width", "A claim.", 3, (), (Criterion("x", "at_least", 1.0),), "all", True, ())
    assert judge(alone, just, ["depth"]).status == CONTRADICTED
    verdict = judge(alone, pd.concat([just, *others]), ["depth"])
    assert (verdict.status, verdict.outcomes["depth 0"]) == (UNDECIDED, UNDECIDED)


def test_later_seeds_are_judged_by_themselves_too() -> None:
    known = statistics(GOOD, HIGH).assign(seed=range(666, 670))
    later = statistics(BAD, HIGH).assign(seed=range(700, 704))
    # One seed has no interval.
    assert judge(claim(), pd.concat([known, later.head(1)]), []).later == ""
    assert judge(claim(), known, []).later == ""
    assert judge(claim(), later, []).later == ""
    verdict = judge(claim(), pd.concat([known, later]), [])
    assert verdict.later == CONTRADICTED
    assert "on later seeds alone contradicted" in str(verdict)
    few = judge(claim(), pd.concat([known, later.head(2)]), [])
    assert few.later == f"undecided, with fewer than {claim().seeds} seeds"


def test_values_that_would_count_twice_or_not_at_all_are_noticed() -> None:
    with pytest.raises(ConfigError, match=r"width: several values for one seed in a condition \(depth\)"):
        judge(claim(), statistics(GOOD * 2, HIGH * 2).assign(seed=1), ["depth"])
    unnamed = pd.concat([statistics(GOOD, HIGH), statistics(BAD, HIGH).assign(depth=math.nan)])
    assert judge(claim(), unnamed, ["depth"]).status == PARTLY


def test_statistics_over_settings_come_with_their_interval() -> None:
    criterion = Criterion("correlation", "at_most", -0.3)
    one = Claim("robustness", "A claim.", 3, (), (criterion,), "all", True, ())
    for value, cases, status in ((-0.8, 40, REPRODUCED), (-0.5, 10, UNDECIDED), (0.4, 40, CONTRADICTED)):
        rows = pd.DataFrame({"seeds": [3], "correlation": [correlation_interval(value, cases)]})
        assert judge(one, rows, []).status == status


def test_an_unknown_statistic_is_named_with_the_nearest() -> None:
    mistyped = Claim("width", "A claim.", 3, (), (Criterion("decay_ration", "at_most", 0.95),), "all", True, ())
    rows = statistics(GOOD, HIGH).assign(decay_ratio=0.9)
    with pytest.raises(ConfigError, match=r"width: decay_ration: no such statistic; did you mean decay_ratio\?"):
        judge(mistyped, rows, ["depth"])
