"""The page of all runs in a real browser, without network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from equisep.analysis.viewer import thin, write_viewer
from equisep.config import ConfigError, compose_config
from equisep.execution.train import execute
from equisep.measures import fit_law
from equisep.store import Run, all_runs
from tests.analysis.test_report import browser  # noqa: F401
from tests.conftest import Ended


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    usual = [f"results={folder}", "tracking=off", "training=smoke", "measures=[paper,evaluation]"]
    networks = [("4", "1"), ("4", "2"), ("6", "1")]
    execute(
        [
            compose_config([*usual, f"architecture.depth={depth}", f"seed={seed}", "optimizer.learning_rate=0.002"])
            for depth, seed in networks
        ]
    )
    # A measurement without a name, which in evaluation mode gives the same D.
    other = ["measures=null", "measure=evaluation", "measure.batch_size=50"]
    execute([compose_config([*usual, *other, "architecture.depth=4", "seed=1", "optimizer.learning_rate=0.002"])])
    # A run that another tool has damaged is left out.
    damaged = Run(folder, "0" * 16)
    damaged.path.mkdir(parents=True)
    (damaged.path / "config.yaml").write_text("</script><b>")
    return folder


@pytest.fixture
def page(browser: Browser, store: Path) -> Iterator[Page]:  # noqa: F811
    path, notes = write_viewer(store, store)
    assert notes[0] == "3 runs."
    assert "Damaged and left out: 1, such as 0000000000000000" in notes[1]
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    yield page
    assert problems == []
    context.close()


def column(page: Page, name: str) -> list[str]:
    names = page.locator("#names th").all_inner_texts()
    return [row.locator("td").nth(names.index(name)).inner_text() for row in page.locator("#rows tr").all()]


def test_runs_are_filtered_sorted_and_drawn(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert "Damaged and left out: 1" in page.inner_text("main")
    assert page.locator("#names th").all_inner_texts()[:7] == ["run", "depth", "optimizer", "rate", "seed", "r", "ρ"]
    assert column(page, "depth").count("4") == 2
    for text, kept in (("6", 1), ("<6", 2), (">=4", 3), ("5..9", 1), ("7", 0)):
        page.get_by_label("filter by depth").fill(text)
        assert page.locator("#rows tr").count() == kept, text
    page.get_by_label("filter by depth").fill("")
    page.get_by_role("button", name="ρ", exact=True).click()
    ratios = [float(text) for text in column(page, "ρ")]
    assert ratios == sorted(ratios)
    page.get_by_role("button", name="ρ", exact=True).click()
    assert page.locator("th[aria-sort=descending]").inner_text() == "ρ"
    assert [float(text) for text in column(page, "ρ")] == ratios[::-1]
    # What is read can be filtered for, with the minus of the page; what is no filter is marked and leaves all runs.
    by_r = page.get_by_label("filter by r", exact=True)
    shown = column(page, "r")
    by_r.fill(shown[0])
    assert shown[0] in column(page, "r")
    assert len(column(page, "r")) == shown.count(shown[0])
    for text in ("4..", "<", ">=x"):
        by_r.fill(text)
        assert by_r.get_attribute("aria-invalid") == "true"
        assert page.locator("#rows tr").count() == 3
    by_r.fill("")
    # A choice by keyboard keeps the place.
    box = page.locator("#rows input").nth(1)
    box.focus()
    page.keyboard.press("Space")
    assert box.is_checked()
    assert page.evaluate("document.activeElement.type") == "checkbox"
    page.get_by_role("button", name="choose the first 20 shown").click()
    # Two networks with the input and three hidden layers, one with five.
    assert page.locator("#layers circle").count() == 2 * 4 + 6
    assert page.locator("#training path[data-run]").count() == 3
    page.get_by_role("button", name="choose none").click()
    assert str(page.locator("#layers").text_content()).endswith("choose runs in the table")


def test_conventions_come_before_other_measurements(page: Page) -> None:
    groups = page.locator("#measure optgroup")
    labels = [group.get_attribute("label") for group in groups.all()]
    assert labels == ["conventions", "other measurements: running"]
    options = [group.locator("option").all_text_contents() for group in groups.all()]
    assert options == [["as published", "in evaluation mode"], ["running, stored, 50"]]


def test_the_law_is_that_of_the_chosen_epoch_and_convention(page: Page, store: Path) -> None:
    for run in all_runs(store):
        if run.id == "0" * 16:
            continue
        measurements = {measure["batch_norm"]: measure for measure in run_measures(run)}
        for name, statistics in (("paper", "batch"), ("evaluation", "running")):
            page.locator("#measure").select_option(name)
            for place, epoch in enumerate((0, 2)):
                slide = "(slider, place) => { slider.value = place; slider.dispatchEvent(new Event('input')); }"
                page.locator("#epoch").evaluate(slide, place)
                assert page.locator("#shown").inner_text() == str(epoch)
                law = fit_law(measurements[statistics]["D"][epoch])
                ids = [text.strip() for text in column(page, "run")]
                shown = ids.index(run.id[:8])
                assert column(page, "r")[shown] == f"{law.pearson_r:.4f}".replace("-", "−")
                assert column(page, "ρ")[shown] == f"{law.decay_ratio:.4f}"


def run_measures(run: Run) -> Iterator[dict[str, object]]:
    for path in sorted((run.path / "measures").glob("*.json")):
        content = json.loads(path.read_text())
        records = [record for record in content["records"] if record["split"] == "train"]
        yield {"batch_norm": content["measure"]["batch_norm"], "D": {one["epoch"]: one["fuzziness"] for one in records}}


@pytest.mark.slow
def test_the_page_is_accessible(page: Page) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_page_without_runs_and_unknown_words_are_errors_of_one_line(
    equisep: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match="contains no runs to show"):
        write_viewer(tmp_path, tmp_path)
    for words, message in (
        (["results=nowhere"], "no"),
        (["port=1"], "port=1: unknown argument; use source=SOURCE or results"),
    ):
        run = equisep("page", *words)
        assert run.code == 2
        (line,) = run.err.splitlines()
        assert message in line


def test_long_curves_are_thinned_evenly() -> None:
    assert thin([1, 2, 3], 3) == [1, 2, 3]
    kept = thin(range(600), 120)
    assert (len(kept), kept[0], kept[-1]) == (120, 0, 599)
    assert max(b - a for a, b in pairwise(kept)) <= 6
