"""Claims: reading conf/claims.yaml, and the points of null distributions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from equisep.analysis import claims
from equisep.analysis.claims import Claim, Criterion, load_claims
from equisep.analysis.figures.catalogue import OVERVIEWS
from equisep.config import ConfigError, conf_folder


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
        ("width: hello", "width: must have claim, seeds and one of all, any, none, not 'hello'"),
        (
            "width: {claim: c, seeds: 1, all: {}, permise: {}}",
            "width: .*permise: no such key; did you mean premise",
        ),
        (
            "width: {claim: c, seeds: 0, all: {r: {at_most: 1}}, changed: []}",
            "width: .*seeds: 0: must be an integer, at least 1",
        ),
        (
            "width: {claim: c, seeds: 1, all: {r: {at_most: 1}}, any: {}, changed: []}",
            "width: .*has all and any; one rule",
        ),
        (
            "width: {seeds: 1, changed: [], all: {r: 0.5}}",
            "width: .*r: 0.5: must be one of at_most, below_null",
        ),
        (
            "width: {seeds: 1, changed: [], all: {r: {below_null: 5}}}",
            "width: .*below_null: 5: is a probability",
        ),
        (
            "width: {seeds: 1, changed: [], all: {D: {below_null: 0.1}}}",
            "width: .*D: below_null: has no null distribution",
        ),
        (
            "width: {claim: c, seeds: 1, all: {r: {at_most: 0.1, at_least: 0.2}}, changed: []}",
            "width: .*at_least 0.2 and at_most 0.1 exclude each other",
        ),
        ("width: {claim: c, seeds: 1, all: {}, changed: []}", "width: each rule needs statistics with at_most"),
        (
            "width: {claim: c, seeds: 1, all: {r: {at_mots: 1}}, changed: []}",
            "width: r: at_mots: must be one of at_most, below_null, ",
        ),
        ("width: {claim: c, seeds: 1, all: {r: {at_most: 1}}, changed: []}", "width: 'fixed' is missing"),
        (
            "width: {claim: c, seeds: 1, all: {r: {at_most: 1}}, changed: [later], fixed: ''}",
            "width: changed: 'later': ",
        ),
        (
            "width: {claim: c, seeds: many, all: {}}",
            "width: seeds: many: must be an integer",
        ),
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


def test_bounds_are_points_of_the_null_for_the_number_of_layers() -> None:
    """The 5 % points of r and of CV of log ρ, for 4, 8 and 20 points."""
    for points, r, variation in ((4, -0.9953, 0.201), (8, -0.9901, 0.482), (20, -0.9942, 0.668)):
        rows = pd.DataFrame({"points": [points], "points_last": [points]})
        for suffix in ("", "_last"):
            assert Criterion(f"r{suffix}", "below_null", 0.05).bound(rows) == pytest.approx(r, abs=2e-4)
            found = Criterion(f"log_ratio_cv{suffix}", "below_null", 0.05).bound(rows)
            assert found == pytest.approx(variation, abs=4e-3)
    blocks = pd.DataFrame({"points_layer": [9], "points_block": [5]})
    assert 0.05 < Criterion("residual_excess", "above_null", 0.05).bound(blocks) < 0.15
    assert Criterion("r", "at_most", -0.97).bound(blocks) == -0.97
