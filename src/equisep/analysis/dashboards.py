"""A wandb workspace defined in code, for the keys that a run's mirror logs; needs ``equisep[dashboard]``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from equisep.config import ConfigError, require_extra

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

GROUPED_BY = ("architecture.family", "architecture.depth", "dataset.name")
# Panels of each section of the workspace: title, pattern of the keys shown, whether the axis is logarithmic.
PLOTS = ("train/layers", "evaluation/train/layers")
# Of which a run has one value each: title and keys. By default the test set is measured once, at the end.
BARS = {
    "law": (("correlation r, test set", ("test/r", "evaluation/test/r")),),
    "training": (("accuracy, test set", ("test/accuracy",)),),
    "robustness": (
        (
            "accuracy under perturbation, area",
            tuple(f"robustness/{kind}" for kind in ("weights", "input_noise", "corruptions", "fgsm", "pgd")),
        ),
    ),
}
SECTIONS = {
    "law": (
        ("separation fuzziness D, training set", r"^train/D/\d+$", True),
        ("separation fuzziness D in evaluation mode", r"^evaluation/train/D/\d+$", True),
        ("correlation r of layer and log D", r"^(evaluation/)?train/r$", False),
        ("decay ratio", r"^(evaluation/)?train/decay_ratio$", False),
    ),
    "training": (
        ("loss", r"^(training|train)/loss$", True),
        ("accuracy", r"^(training|train)/accuracy$", False),
        ("learning rate", r"^training/learning_rate$", True),
    ),
    "robustness": (),
}


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
    # What the workspace is about comes first.
    first = {"law": [reports.MediaBrowser(title="log D against layer", media_keys=list(PLOTS))]}
    sections = [
        workspaces.Section(
            name=name,
            panels=[
                *first.get(name, ()),
                *(
                    reports.LinePlot(title=title, metric_regex=pattern, log_y=logarithmic, **options)
                    for title, pattern, logarithmic in panels
                ),
                *(reports.BarPlot(title=title, metrics=list(keys)) for title, keys in BARS[name]),
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
