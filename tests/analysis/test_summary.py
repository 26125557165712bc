"""The generated tables of the README."""

from __future__ import annotations

import pytest

from equisep.analysis.claims import load_claims
from equisep.analysis.summary import load_reference_results, with_tables
from reproduce.readme import updated
from tests.conftest import ROOT


def test_the_tables_of_the_readme_are_current() -> None:
    readme = (ROOT / "README.md").read_text()
    assert updated(readme) == readme, "run `make readme`"


def test_every_claim_has_a_finding() -> None:
    assert set(load_reference_results(ROOT / "results/reference")) == set(load_claims())


def test_only_the_tables_of_a_page_change() -> None:
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert with_tables(page, {"x": "| new |"}) == "a\n<!-- x -->\n| new |\n<!-- end of x -->\nb\n"
    with pytest.raises(ValueError, match="'y'"):
        with_tables(page, {"y": ""})
