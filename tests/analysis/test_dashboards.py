"""The JSON of the workspace without an account, and the page of a store in a real browser on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from equisep.analysis.dashboards import MAX_RUNS, SECTIONS, build_workspace, newest_runs, workspace_json
from equisep.config import ConfigError, compose_config
from equisep.execution.train import execute
from equisep.store import Run
from tests.analysis.test_report import browser  # noqa: F401
from tests.conftest import Ended
from tests.processes import call, start
from tests.store.test_readers import KEYS_LOGGED, free_port


def panels() -> dict[str, list[dict[str, Any]]]:
    spec = json.loads(workspace_json(build_workspace("team", "law")))
    return {section["name"]: section["panels"] for section in spec["section"]["panelBankConfig"]["sections"]}


def test_the_workspace_has_its_sections_against_epochs() -> None:
    sections = panels()
    assert list(sections) == ["law", "training", "robustness"]
    for name, content in sections.items():
        assert [panel["config"]["chartTitle"] for panel in content] == [title for title, _, _ in SECTIONS[name]]
        assert all(panel["config"]["xAxis"] == "epoch" for panel in content)
    spec = json.loads(workspace_json(build_workspace("team", "law")))
    assert "architecture.value.depth" in json.dumps(spec["section"]["runSets"])


def test_every_panel_shows_a_logged_key() -> None:
    for section in SECTIONS.values():
        for _, pattern, _ in section:
            assert any(re.search(pattern, key) for key in KEYS_LOGGED), pattern


def test_saving_without_an_account_is_an_error_of_one_line(equisep: Callable[..., Ended], tmp_path: Path) -> None:
    command = ["dashboard", "--entity", "team", "--project", "law"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | {
        "HOME": str(tmp_path)
    }
    failed = call(*command, folder=tmp_path, environment=plain)
    assert failed.code == 2
    assert failed.err.strip().startswith("equisep: dashboard: No API key configured")
    assert len(failed.err.strip().splitlines()) == 1
    printed = equisep(*command, "--json")
    assert json.loads(printed.out)["section"]["panelBankConfig"]["sections"][0]["name"] == "law"
    with pytest.raises(ConfigError, match="--entity .* and --project"):
        build_workspace("", "law")


def test_the_page_shows_the_runs_of_a_store(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    usual = [f"results={tmp_path}", "tracking=off", "training=smoke", "architecture.depth=4"]
    execute([compose_config([*usual, f"seed={seed}"]) for seed in (1, 2)])
    port = free_port()
    process = start("page", f"results={tmp_path}", f"port={port}")
    try:
        line = process.line()
        assert "the newest 2 runs" in line
        page = browser.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.goto(line.split(": ")[1].split()[0])
        page.get_by_text("decay ratio").first.wait_for(timeout=60_000)
        assert page.get_by_text("fnn depth 4 width 100, fashion_mnist 10").count() >= 2
        assert all(url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:")) for url in requested)
    finally:
        process.signal(signal.SIGTERM)
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["port=x"], "equisep: port=x: .*integer in 1 … 65535"),
        (["results=nowhere"], "equisep: results=nowhere: .*no runs"),
    ],
)
def test_an_invalid_page_is_an_error_of_one_line(
    arguments: list[str], message: str, equisep: Callable[..., Ended]
) -> None:
    run = equisep("page", *arguments)
    assert run.code == 2
    (line,) = run.err.splitlines()
    assert re.match(message, line)


def test_the_page_shows_the_newest_runs_up_to_its_maximum(tmp_path: Path) -> None:
    for number in range(MAX_RUNS + 5):
        path = Run(tmp_path, f"{number:016x}").path
        path.mkdir(parents=True)
        (path / "metrics.jsonl").touch()
        os.utime(path / "metrics.jsonl", (number, number))
    assert [run.id for run in newest_runs(tmp_path)] == [f"{number:016x}" for number in range(5, MAX_RUNS + 5)]
