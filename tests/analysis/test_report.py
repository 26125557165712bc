"""The report: written from real results, and opened in a real browser without network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from equisep.analysis.claims import load_claims
from equisep.analysis.figures.catalogue import REPRODUCTIONS
from equisep.analysis.report import write_report
from equisep.analysis.tables import load_tables
from equisep.commands.main import main
from equisep.commands.report import scripts
from equisep.config import ConfigError
from equisep.store import machine_facts
from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REFERENCE = ROOT / "results/reference"
WIDTH = {"width": "python reproduce/width.py"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference results in the layout of the scripts, with run folders for one of them."""
    folder = tmp_path_factory.mktemp("results")
    for kind, pattern in (("figures", "*.png"), ("tables", "*.csv")):
        (folder / kind).mkdir()
        for path in REFERENCE.glob(f"*/{pattern}"):
            shutil.copy(path, folder / kind)
    # Their verdicts are those of former rules: they are judged again, but for figures over all runs.
    (folder / "verdicts").mkdir()
    for name, reproduction in REPRODUCTIONS.items():
        # The experiment controls has other networks since its reference results.
        if (REFERENCE / name / f"{name}.csv").exists() and name != "controls":
            record = reproduction.make(load_tables(REFERENCE / name, name)).record()
            (folder / f"verdicts/{name}.json").write_text(json.dumps(record))
    for run in (folder / "tables/frozen.csv").read_text().splitlines()[1:]:
        (folder / "runs" / next(word for word in run.split(",") if len(word) == 16)).mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def report(results: Path) -> Path:
    return write_report(results, scripts())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as driver:
        # Root, as in a container, has no sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
    page = context.new_page()
    logged: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(report.as_uri())
    yield page
    assert logged == []
    assert [url for url in requested if not url.startswith("data:")] == [report.as_uri()]
    context.close()


def test_the_report_shows_every_claim_with_figure_and_verdict(page: Page, results: Path) -> None:
    for name, claim in load_claims().items():
        section = page.locator(f"section#{name}")
        record = results / f"verdicts/{name}.json"
        content = json.loads(record.read_text()) if record.exists() else {}
        text = section.inner_text()
        assert claim.text in text
        verdicts = content.get("verdicts", {"paper": {"verdict": "not tested"}})
        for convention, verdict in verdicts.items():
            assert f"{convention}: {verdict['verdict']}" in text, name
        former = f"By the former rules, under the paper's convention alone: {content.get('former')}."
        assert (former in text) == bool(content.get("former")), name
        assert section.locator("img").count() == record.exists()
    shown = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 300)")
    assert shown
    assert all(shown)


def test_the_page_fits_a_phone(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_links_have_targets(page: Page, report: Path) -> None:
    links = page.evaluate("[...document.links].map(link => link.href)")
    assert len(links) > 50
    for link in set(links):
        address = urlparse(link)
        assert address.scheme == "file", link
        assert Path(unquote(address.path)).exists(), link
        if address.fragment:
            assert page.locator(f"#{address.fragment}").count() == 1
    assert any("/runs/" in link for link in links)


def test_the_page_can_be_printed(page: Page, tmp_path: Path) -> None:
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator(".runs").first.is_visible()


def test_the_report_shows_deviations_hardware_and_versions(page: Page) -> None:
    text = page.inner_text("body")
    assert "p×p covariance and pinv" in text
    facts = machine_facts()
    assert f"processor {facts['processor']}" in text
    assert f"commit {facts['commit']}" in text
    frozen = page.locator("section#frozen").inner_text()
    for word in ("50", "666, 667, 668, 669, 670", "AMD EPYC", "2.15.0"):
        assert word in frozen


def test_text_from_records_is_escaped(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "verdicts", tmp_path / "verdicts")
    record = tmp_path / "verdicts/width.json"
    content = json.loads(record.read_text()) | {"notes": ["<script>alert(1)</script>"]}
    record.write_text(json.dumps(content))
    html = write_report(tmp_path, WIDTH).read_text()
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>" not in html


def test_invalid_input_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="contains no verdicts; run equisep reproduce"):
        write_report(tmp_path, WIDTH)
    assert main(["report", "source=x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("equisep: report: source=x: unknown argument")


FINDING = {"condition": "", "statistic": "r", "mean": -0.99, "low": -1.0, "high": -0.98, "n": 5}


def write_verdict(folder: Path, content: str) -> None:
    (folder / "verdicts").mkdir()
    (folder / "verdicts/width.json").write_text(content)


def with_findings(findings: object) -> str:
    verdict = {"verdict": "reproduced", "counts": "", "statistics": "", "findings": findings}
    return json.dumps({"notes": [], "verdicts": {"paper": verdict}})


def test_a_finding_shows_its_threshold_and_outcome(tmp_path: Path) -> None:
    write_verdict(tmp_path, with_findings([FINDING | {"threshold": "≤ −0.97", "outcome": "holds"}]))
    assert "<td>≤ −0.97</td><td>holds</td>" in write_report(tmp_path, WIDTH).read_text()


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '"x"', with_findings(None), with_findings([FINDING])),
        # Of an earlier version, with one verdict.
        json.dumps({"verdict": "supported", "statistics": "", "notes": [], "findings": []}),
    ],
)
def test_an_invalid_verdict_file_is_named_with_a_remedy(content: str, tmp_path: Path) -> None:
    write_verdict(tmp_path, content)
    with pytest.raises(ConfigError, match=r"width.json cannot be read: remove it and run `equisep figure width`"):
        write_report(tmp_path, WIDTH)
