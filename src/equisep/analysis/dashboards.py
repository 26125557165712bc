"""Dashboards: a wandb workspace defined in code, and a local web page for the runs of a store.

Both need the extra ``equisep[dashboard]``. The workspace shows the keys that equisep.execution.tracking logs. The page
is updated from the store every few seconds, is served on loopback only, and stores nothing.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from equisep.config import ConfigError, require_extra
from equisep.store import Run, RunRecord, all_runs, read_run, run_title

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

GROUPED_BY = ("architecture.family", "architecture.depth", "dataset.name")
# Panels of each section of the workspace: title, pattern of the keys shown, whether the axis is logarithmic.
SECTIONS = {
    "law": (
        ("separation fuzziness D, training set", r"^train/D/\d+$", True),
        ("correlation r of layer and log D", r"^(train|test)/r$", False),
        ("decay ratio", r"^(train|test)/decay_ratio$", False),
        ("separation fuzziness D, test set", r"^test/D/\d+$", True),
    ),
    "training": (
        ("loss", r"^(training|train)/loss$", True),
        ("accuracy", r"^(training|train)/accuracy$", False),
        ("learning rate", r"^training/learning_rate$", True),
    ),
    "robustness": (
        ("accuracy under perturbation, area", r"^robustness/", False),
        ("test accuracy", r"^test/accuracy$", False),
        ("test loss", r"^test/loss$", True),
    ),
}
# The page requests and draws every run once a second: it freezes with hundreds.
MAX_RUNS = 40
UPDATE_INTERVAL_S = 2.0


def build_workspace(entity: str, project: str) -> Workspace:
    """Return a wandb workspace with sections for law, training and robustness; only saving it needs an account.

    Raises ConfigError if the extra is not installed or a name is empty.
    """
    if not entity or not project:
        raise ConfigError("dashboard: set --entity to a wandb user or team, and --project to a project")
    require_extra("wandb_workspaces", "dashboard", "dashboard")
    import wandb_workspaces.reports.v2
    from wandb_workspaces import expr, workspaces

    # Typed Any because the module's names are defined at run time.
    reports: Any = wandb_workspaces.reports.v2
    options = {"x": "epoch", "smoothing_factor": 0, "max_runs_to_show": 100}
    options |= {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    sections = [
        workspaces.Section(
            name=name,
            panels=[
                reports.LinePlot(title=title, metric_regex=pattern, log_y=logarithmic, **options)
                for title, pattern, logarithmic in panels
            ],
            is_open=True,
            layout_settings=workspaces.SectionLayoutSettings(columns=2, rows=2),
            panel_settings=workspaces.SectionPanelSettings(x_axis="epoch"),
        )
        for name, panels in SECTIONS.items()
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="law of equi-separation",
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="epoch", max_runs=100, smoothing_type="none"),
        runset_settings=workspaces.RunsetSettings(groupby=[expr.Config(key) for key in GROUPED_BY]),
    )


def workspace_json(workspace: Workspace) -> str:
    """Return the JSON that saving a workspace uploads."""
    content: str = workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    return content


def save_workspace(workspace: Workspace) -> str:
    """Save a workspace in wandb and return its URL; raises ConfigError without an account."""
    import wandb

    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        wandb.setup(settings=wandb.Settings(silent=True))
        save: Any = workspace.save
        save()
    except (wandb.Error, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"dashboard: {reason} (an account is needed: `wandb login`, or WANDB_API_KEY)") from None
    return str(workspace.url)


def serve_page(results: Path, port: int) -> None:
    """Serve the newest runs of a store on http://127.0.0.1:PORT until interrupted, with updates every two seconds.

    Raises ConfigError if the extra is not installed, there are no runs, or the port is in use.
    """
    require_extra("trackio", "dashboard", "page")
    if not any(all_runs(results)):
        raise ConfigError(f"results={results}: contains no runs to show")
    with tempfile.TemporaryDirectory() as folder:
        trackio = _import_trackio(Path(folder))
        total = feed_page(newest_runs(results))
        try:
            # Its output is hidden because it contains a URL with a token that grants write access.
            with redirect_stdout(io.StringIO()):
                off = dict.fromkeys(("share", "open_browser", "mcp_server", "block_thread"), False)
                page = trackio.show(project="equisep", host="127.0.0.1", server_port=port, **off)[0]
        except OSError:
            raise ConfigError(f"port={port}: already in use; choose another port") from None
        address = f"http://127.0.0.1:{port}/?project=equisep&smoothing=0"
        print(f"the newest {total} runs of {results}: {address} (stop with Ctrl-C)", flush=True)
        try:
            while True:
                time.sleep(UPDATE_INTERVAL_S)
                feed_page(newest_runs(results))
        except KeyboardInterrupt:
            pass
        finally:
            page.close()


def newest_runs(results: Path) -> list[Run]:
    """Return the most recently written runs of a store, at most MAX_RUNS."""

    def written(run: Run) -> float:
        path = run.path / "metrics.jsonl"
        return path.stat().st_mtime if path.exists() else 0.0

    return sorted(all_runs(results), key=written)[-MAX_RUNS:]


def feed_page(runs: Iterable[Run]) -> int:
    """Add new values of the runs to the page's database, and return the number of runs."""
    from trackio.sqlite_storage import SQLiteStorage

    SQLiteStorage.init_db("equisep")
    records = [record for record in map(read_run, runs) if record.config and not record.flaw]
    for record in records:
        rows = list(_page_rows(record))
        if rows:
            # The ids prevent that a row is written twice.
            SQLiteStorage.bulk_log(
                project="equisep",
                run=f"{run_title(record.config)} {record.run[:6]}",
                run_id=record.run,
                metrics_list=[values for _, _, values in rows],
                steps=[epoch for _, epoch, _ in rows],
                log_ids=[f"{record.run}/{name}" for name, _, _ in rows],
                config=_flatten(record.config),
            )
    return len(records)


def _page_rows(record: RunRecord) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yield id, epoch and values by panel of each record of a run on the training set."""
    for epoch in record.epochs:
        yield f"{epoch.epoch}", epoch.epoch, {"training/loss": epoch.loss, "training/accuracy": epoch.accuracy}
    for measure, measurement in record.measures.items():
        for layers in (layers for layers in measurement.records if layers.split == "train"):
            values = {f"separation fuzziness/{layer:02d}": value for layer, value in enumerate(layers.fuzziness)}
            values["law/D of the last layer"] = layers.fuzziness[-1]
            law = layers.law()
            if law:
                values |= {"law/r": law.pearson_r, "law/decay ratio": law.decay_ratio}
            yield f"{measure}/{layers.epoch}", layers.epoch, values


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with dotted keys and scalar values, by which the page can group."""
    fields = pd.json_normalize(dict(config)).iloc[0].to_dict()
    return {str(key): value if isinstance(value, int | float | str) else str(value) for key, value in fields.items()}


def _import_trackio(folder: Path) -> Any:
    """Import trackio with its database in a folder, and without settings that would send data off this machine."""
    os.environ["TRACKIO_DIR"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in list(os.environ):
        if name.startswith(("GRADIO_", "TRACKIO_")) and name != "TRACKIO_DIR":
            del os.environ[name]
    import trackio

    return trackio
