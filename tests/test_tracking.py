"""The wandb mirror, read back from real offline files with wandb's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from equisep.law import fit_law
from equisep.run import execute
from equisep.schema import Config, ConfigError, Tracking
from equisep.tracking import mirror_store

QUIET = Console(quiet=True)


def read_wandb(results: Path, run: str) -> list[dict[str, object]]:
    """Return the history rows of every segment of a wandb run, in order."""
    rows: list[dict[str, object]] = []
    for file in sorted(results.glob(f"wandb/offline-run-*-{run}/*.wandb")):
        listed = subprocess.run(
            [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file],
            check=True,
            capture_output=True,
            text=True,
        )
        for line in listed.stdout.splitlines():
            record = json.loads(line)
            if "history" in record:
                rows.append(record["history"]["item"])
    return rows


def test_epochs_and_layers_reach_wandb_one_run_each(configure: Callable[..., Config], tmp_path: Path) -> None:
    outcomes = [execute(configure("tracking=offline", f"seed={seed}"), QUIET) for seed in (1, 2)]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    for outcome in outcomes:
        rows = read_wandb(tmp_path, outcome.run.id)
        losses = [row["training/loss"] for row in rows if "training/loss" in row]
        assert losses == [epoch.loss for epoch in outcome.run.epochs()]
        assert outcome.final is not None
        (last,) = [row for row in rows if row.get("train/D/00") and row["epoch"] == 2]
        fuzziness = [last[f"train/D/{layer:02d}"] for layer in range(8)]
        assert fuzziness == list(outcome.final.fuzziness)
        assert last["train/r"] == fit_law(fuzziness).pearson_r
        assert last["train/accuracy"] == outcome.final.accuracy
        assert last["train/layers._type"] == "image-file"
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/train/*.png"))


def test_a_mirror_can_be_made_again_from_the_store(configure: Callable[..., Config], tmp_path: Path) -> None:
    outcome = execute(configure(), QUIET)
    assert not (tmp_path / "wandb").exists()
    assert mirror_store(tmp_path, Tracking(mode="offline", project="equisep")) == 1
    rows = read_wandb(tmp_path, outcome.run.id)
    assert [row["training/loss"] for row in rows if "training/loss" in row] == [e.loss for e in outcome.run.epochs()]
    assert sum("train/D/07" in row for row in rows) == 2


def test_online_without_an_account_says_what_to_do(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="wandb login"):
        execute(configure("tracking=online"), QUIET)
