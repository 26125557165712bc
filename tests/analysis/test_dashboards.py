"""The JSON of the workspace, without an account."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equisep.analysis.dashboards import BARS, PLOTS, SECTIONS, build_workspace, workspace_json
from equisep.config import ConfigError
from tests.conftest import Ended
from tests.processes import call
from tests.store.test_readers import KEYS_LOGGED


def panels() -> dict[str, list[dict[str, Any]]]:
    spec = json.loads(workspace_json(build_workspace("team", "law")))
    return {section["name"]: section["panels"] for section in spec["section"]["panelBankConfig"]["sections"]}


def test_the_workspace_has_its_sections_against_epochs() -> None:
    sections = panels()
    assert list(sections) == ["law", "training", "robustness"]
    assert sections["law"][0]["config"]["mediaKeys"] == list(PLOTS)
    for name, content in sections.items():
        lines = [panel["config"] for panel in content if panel["viewType"] == "Run History Line Plot"]
        assert [line["chartTitle"] for line in lines] == [title for title, _, _ in SECTIONS[name]]
        assert all(line["xAxis"] == "epoch" for line in lines)
        bars = [panel["config"] for panel in content if panel["viewType"] == "Bar Chart"]
        assert [(bar["chartTitle"], tuple(bar["metrics"])) for bar in bars] == list(BARS[name])
    spec = json.loads(workspace_json(build_workspace("team", "law")))
    assert "architecture.value.depth" in json.dumps(spec["section"]["runSets"])


def test_every_panel_shows_a_logged_key() -> None:
    """Lines those of several epochs: the test set is by default measured once."""
    for section in SECTIONS.values():
        for _, pattern, _ in section:
            logged = (*KEYS_LOGGED, *(f"evaluation/{key}" for key in KEYS_LOGGED))
            assert any(re.search(pattern, key) for key in logged), pattern
            assert not any(re.search(pattern, key) for key in logged if "test/" in key), pattern
    keys = {key for bars in BARS.values() for _, metrics in bars for key in metrics}
    assert keys <= {*KEYS_LOGGED, *(f"evaluation/{key}" for key in KEYS_LOGGED)}


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
