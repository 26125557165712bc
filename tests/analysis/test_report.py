"""The report: written from real results, and opened in a real browser that has no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from equisep.analysis.claims import load_claims
from equisep.analysis.report import write_report
from equisep.config import ConfigError
from equisep.store import machine_facts
from reproduce.report import main, scripts
from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REFERENCE = ROOT / "results/reference"
WIDTH = {"width": "python reproduce/width.py"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference results as the scripts write them, with a folder for the runs of one of them."""
    folder = tmp_path_factory.mktemp("results")
    for kind, pattern in (("figures", "*.png"), ("tables", "*.csv"), ("verdicts", "*.json")):
        (folder / kind).mkdir()
        for path in REFERENCE.glob(f"*/{pattern}"):
            shutil.copy(path, folder / kind)
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
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    context.close()


def test_it_shows_every_claim_with_figure_and_verdict(page: Page) -> None:
    for name, claim in load_claims().items():
        section = page.locator(f"section#{name}")
        record = REFERENCE / name / f"{name}.json"
        verdict = json.loads(record.read_text())["verdict"] if record.exists() else "not run"
        text = section.inner_text()
        assert claim.text in text
        assert f"\n{verdict}: " in text, name
        assert section.locator("img").count() == record.exists()
    shown = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 300)")
    assert shown
    assert all(shown)


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_links_lead_somewhere(page: Page, report: Path) -> None:
    links = page.evaluate("[...document.links].map(link => link.href)")
    assert len(links) > 50
    for link in set(links):
        address = urlparse(link)
        assert address.scheme == "file", link
        assert Path(unquote(address.path)).exists(), link
        if address.fragment:
            assert page.locator(f"#{address.fragment}").count() == 1
    assert any("/runs/" in link for link in links)


def test_it_prints_on_pages(page: Page, tmp_path: Path) -> None:
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator(".runs").first.is_visible()


def test_it_tells_deviations_hardware_and_versions(page: Page) -> None:
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
    record.write_text(record.read_text().replace('"notes": []', '"notes": ["<script>alert(1)</script>"]'))
    html = write_report(tmp_path, WIDTH).read_text()
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>" not in html


def test_bad_input_is_one_line(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no verdicts below it; `make reproduce` makes some"):
        write_report(tmp_path, WIDTH)
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts/width.json").write_text("{")
    with pytest.raises(ConfigError, match=r"width.json cannot be read: remove it, and `python reproduce/width.py`"):
        write_report(tmp_path, WIDTH)
    assert main(["source=x"]) == 2
    assert capsys.readouterr().err.strip() == "report: source=x: unknown argument; give results=FOLDER"


@pytest.mark.parametrize(
    "content", ["[]", '"x"', '{"verdict": "supported", "statistics": "", "notes": [], "findings": null}']
)
def test_a_verdict_of_another_shape_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts/width.json").write_text(content)
    with pytest.raises(ConfigError, match=r"width.json cannot be read: remove it"):
        write_report(tmp_path, WIDTH)
