"""What is generated in docs/."""

from __future__ import annotations

import pytest

import equisep
from docs.pages import FUNCTIONS, updated
from equisep.analysis.claims import load_claims
from equisep.analysis.summary import load_reference_results, with_tables
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["results.md", "deviations.md", "api.md", "results/reference/README.md"])
def test_what_is_generated_is_current(name: str) -> None:
    page = (ROOT / ("" if "/" in name else "docs") / name).read_text()
    assert updated(name, page) == page, "run `make docs`"


def test_every_public_name_is_documented() -> None:
    assert sorted(name for names in FUNCTIONS.values() for name in names) == sorted(equisep.__all__)


def test_every_claim_has_a_finding() -> None:
    assert set(load_reference_results(ROOT / "results/reference")) == set(load_claims())


def test_only_the_tables_of_a_page_change() -> None:
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert with_tables(page, {"x": "| new |"}) == "a\n<!-- x -->\n| new |\n<!-- end of x -->\nb\n"
    with pytest.raises(ValueError, match="'y'"):
        with_tables(page, {"y": ""})
