"""Claims and verdicts: reading conf/claims.yaml, and judging intervals over seeds."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from equisep.analysis import claims
from equisep.analysis.claims import NOT_RUN, NOT_SUPPORTED, SUPPORTED, Claim, Criterion, judge, load_claims
from equisep.analysis.figures.catalogue import OVERVIEWS
from equisep.config import ConfigError, conf_folder


def claim(rule: str = "all", seeds: int = 3) -> Claim:
    criteria = (Criterion("r", "at_most", -0.97), Criterion("gain", "at_least", 0.1))
    return Claim("width", "A claim.", seeds, (), criteria, rule, ())


def statistics(r: list[float], gain: list[float], depth: int = 4) -> pd.DataFrame:
    return pd.DataFrame({"depth": depth, "seed": range(len(r)), "r": r, "gain": gain})


GOOD, WIDE, BAD = [-0.99, -0.985, -0.98], [-0.999, -0.99, -0.95], [-0.5, -0.6, -0.4]


@pytest.mark.parametrize(
    ("rule", "r", "gain", "status"),
    [
        ("all", GOOD, [0.2, 0.3, 0.4], SUPPORTED),
        ("all", WIDE, [0.2, 0.3, 0.4], NOT_SUPPORTED),
        ("all", GOOD, [0.05, 0.3, 0.4], NOT_SUPPORTED),
        ("all", [*GOOD[:2], math.nan], [0.2, 0.3, 0.4], NOT_SUPPORTED),
        ("any", BAD, [0.2, 0.3, 0.4], SUPPORTED),
        ("any", BAD, [0.0, 0.0, 0.0], NOT_SUPPORTED),
        ("none", BAD, [0.2, 0.3, 0.4], SUPPORTED),
        ("none", [*BAD[:2], -0.99], [0.2, 0.3, 0.4], NOT_SUPPORTED),
        ("none", [math.nan] * 3, [0.2, 0.3, 0.4], SUPPORTED),
        ("any", BAD, [0.2, 0.3, math.inf], NOT_SUPPORTED),
        ("any", BAD, [math.inf] * 3, NOT_SUPPORTED),
    ],
)
def test_the_whole_interval_decides_and_each_seed_for_negative_claims(
    rule: str, r: list[float], gain: list[float], status: str
) -> None:
    verdict = judge(claim(rule), statistics(r, gain), ["depth"])
    assert verdict.status == status, str(verdict)
    assert "depth 4" in str(verdict)


def test_every_condition_must_hold_and_the_failing_one_is_named() -> None:
    both = pd.concat([statistics(GOOD, [0.2] * 3), statistics(BAD, [0.2] * 3, depth=8)])
    verdict = judge(claim(), both, ["depth"])
    assert (verdict.status, verdict.held, verdict.conditions) == (NOT_SUPPORTED, 1, 2)
    assert [str(finding) for finding in verdict.decisive] == ["r −0.5 [−0.6, −0.4], n = 3, depth 8 (threshold ≤ −0.97)"]


def test_missing_runs_or_too_few_seeds_are_not_judged() -> None:
    incomplete = judge(claim(), statistics(GOOD, [0.2] * 3), ["depth"], "2 runs are missing")
    assert (incomplete.status, str(incomplete)) == (NOT_RUN, "not run: 2 runs are missing")
    assert incomplete.findings
    assert judge(claim(), statistics([], []), ["depth"]).status == NOT_RUN
    too_few = judge(claim(seeds=5), statistics(GOOD, [0.2] * 3), ["depth"])
    assert (too_few.status, too_few.missing) == (NOT_RUN, "1 of 1 conditions have fewer than 5 seeds")
    one_seed_five_times = statistics([-0.98] * 5, [0.2] * 5).assign(seed=1)
    assert judge(claim(seeds=5), one_seed_five_times, ["depth"]).status == NOT_RUN


def test_a_claim_with_a_failed_premise_is_not_supported_and_names_it() -> None:
    learns = Claim(
        "linear", "A claim.", 3, (Criterion("gain", "at_least", 0.9),), (Criterion("r", "at_most", -0.97),), "none", ()
    )
    dead = judge(learns, statistics([math.nan] * 3, [0.1] * 3), ["depth"])
    assert dead.status == NOT_SUPPORTED
    assert [finding.criterion for finding in dead.decisive] == list(learns.premise)
    assert judge(learns, statistics(BAD, [0.95] * 3), ["depth"]).status == SUPPORTED


def test_a_single_seed_is_judged_by_its_value_and_says_so() -> None:
    verdict = judge(claim(seeds=1), statistics([-0.98], [0.2]), [])
    assert verdict.status == SUPPORTED
    assert "r −0.98 (one seed, no interval)" in str(verdict)


def test_every_experiment_has_its_claim_and_every_claim_its_experiment_or_overview() -> None:
    experiments = {file.stem for file in (conf_folder() / "experiment").glob("*.yaml")}
    assert set(load_claims()) == experiments | set(OVERVIEWS)
    for one in load_claims().values():
        assert one.text.endswith(").")
        assert "claim " in one.text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("widht: {claim: c}", "widht: no such experiment; did you mean width"),
        ("width: {claim: c, claim: d}", "claim is given twice"),
        ("width: [", "while parsing"),
        ("", "must map the names"),
        (
            "width: {claim: c, seeds: 1, all: {r: {at_most: tiny}}, changed: []}",
            "width: r: at_most: tiny: must be a fin",
        ),
        ("width: {claim: c, seeds: 1, changed: []}", "width"),
        ("width: {claim: c, seeds: 1, all: {}, changed: []}", "width: .*at_most or at_least"),
        ("width: {claim: c, seeds: 1, all: {r: {at_mots: 1}}, changed: []}", "width: r: at_mots: must be at_most or "),
        ("width: {claim: c, seeds: 1, all: {r: {at_most: 1}}, changed: []}", "width: 'fixed' is missing"),
        (
            "width: {claim: c, seeds: 1, all: {r: {at_most: 1}}, changed: [later], fixed: ''}",
            "width: changed: 'later': ",
        ),
        ("width: {claim: c, seeds: many, all: {r: {at_most: 1}}, changed: []}", "width: .*many"),
        ("width: {claim: c, seeds: 1, all: {r: {at_most: 1}}}", "width: 'changed'"),
    ],
)
def test_an_invalid_entry_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str) -> None:
    (tmp_path / "claims.yaml").write_text(entry)
    monkeypatch.setattr(claims, "conf_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match=f"claims.yaml: {message}"):
        load_claims()


def test_a_changed_threshold_needs_a_dated_reason_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "conf_folder", lambda: tmp_path)

    def load(threshold: float, fixed: str, changed: str = "") -> Claim:
        entry = f"claim: c, seeds: 1, fixed: '{fixed}', all: {{r: {{at_most: {threshold}}}}}, changed: [{changed}]"
        (tmp_path / "claims.yaml").write_text(f"width: {{{entry}}}")
        return load_claims()["width"]

    def digest_asked_for(*arguments: Any) -> str:
        with pytest.raises(ConfigError, match="width: seeds or thresholds changed without a dated reason") as error:
            load(*arguments)
        return re.search(r"\((\w{8})\)'$", str(error.value))[1]  # type: ignore[index]

    first = digest_asked_for(-0.97, "")
    assert load(-0.97, first).criteria[0].threshold == -0.97
    second = digest_asked_for(-0.9, first)
    assert second != first
    assert digest_asked_for(-0.9, first, "'2026-11-26: too strict'") == second
    changed = load(-0.9, first, f"'2026-11-26: too strict ({second})'")
    assert changed.changed == (f"2026-11-26: too strict ({second})",)
    assert digest_asked_for(-0.97, first, f"'2026-11-26: too strict ({second})'") == first


def test_an_unknown_statistic_is_named_with_the_nearest() -> None:
    mistyped = Claim("width", "A claim.", 3, (), (Criterion("decay_ration", "at_most", 0.95),), "all", ())
    rows = statistics(GOOD, [0.2] * 3).assign(decay_ratio=0.9)
    with pytest.raises(ConfigError, match=r"width: decay_ration: no such statistic; did you mean decay_ratio\?"):
        judge(mistyped, rows, ["depth"])
