"""The outcome of a run, for sweeps, ``equisep status``, SLURM tasks and exit codes alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from equisep.config import (
    Config,
    ConfigError,
    EquisepError,
    Measure,
    by_convention,
    convention_of,
    field_names,
    identity_of_measure,
    nearest,
    require_one_of,
    robustness_id,
)
from equisep.measures import LayerRecord
from equisep.store.errors import DamagedRun, LaterProtocol
from equisep.store.queue import QueuedTask, is_queued, queued_jobs
from equisep.store.run import FINISHED, Run, all_runs
from equisep.store.serialization import Submitted
from equisep.store.sweeps import load_planned_runs

if TYPE_CHECKING:
    import pandas as pd

# The evaluation of a snapshot besides those on the train and test splits.
ROBUSTNESS = "robustness"
HOW_TO_RESUME = "run the same command again to resume from the last checkpoint"
# Words with which SLURM reports in a task's log why it ended the task.
STATES = ("new", "waiting", "running", "interrupted", "failed", "done", "diverged", "damaged")
# What status can filter by besides the fields of the config.
STATUS_FILTERS = ("state", "run", "experiment")
SLURM_REASONS = ("oom_kill", "oom-kill", "out of memory", "time limit", "node failure")


class TaskEnded(EquisepError):
    """A SLURM task that ended before its runs were done."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run for one config.

    state: done, diverged, or "in task ID" for a run of a SLURM task. final: D after the last epoch on the training
    set, test: the same of the test set, None if not measured. trained_epochs: by the present call, None if a SLURM task
    trained it. convention: under which D was measured, the first that the config asks for.
    """

    run: Run
    state: str
    final: LayerRecord | None = None
    trained_epochs: int | None = 0
    test: LayerRecord | None = None
    convention: str = ""

    def facts(self) -> dict[str, object]:
        """Return plain values: run, state, trained_epochs; if measured, accuracies, r, decay_ratio and convention."""
        facts: dict[str, object] = {"run": self.run.id, "state": self.state, "trained_epochs": self.trained_epochs}
        if self.final is not None:
            facts["train_accuracy"] = self.final.accuracy
            facts |= {"test_accuracy": self.test.accuracy} if self.test else {}
            law = self.final.law()
            if law is not None:
                facts |= {"r": law.pearson_r, "decay_ratio": law.decay_ratio, "convention": self.convention}
        return facts

    def __str__(self) -> str:
        """Return one line for the user."""
        facts = self.facts()
        line = f"run {self.run.id}: {self.state}"
        if "r" in facts:
            line += f", r = {facts['r']:.4f}, ρ = {facts['decay_ratio']:.4f} ({self.convention})"
        elif self.state == "done":
            line += ", law not fitted (D of a layer is 0, or the last epoch is not measured)"
        if self.final is not None:
            accuracies = {"training": self.final, "test": self.test}
            line += "".join(f", {name} accuracy {record.accuracy:.4f}" for name, record in accuracies.items() if record)
            line += " in evaluation mode"
            classes, chance = self.final.classes, math.log(self.final.classes)
            if not self.final.loss <= chance:
                line += f"; its training loss {self.final.loss:.4g} is above chance (ln {classes} = {chance:.4g})"
        return line + (" (nothing to train)" if self.trained_epochs == 0 else "")


def missing_evaluations(run: Run, config: Config) -> list[tuple[int, str, Config]]:
    """Return the evaluations of existing snapshots that a config requests and that are not recorded yet, by epoch.

    Triples of epoch, train, test (the split that D is measured on) or robustness, and the config with the measure of
    one of its conventions. Raises DamagedRun.
    """
    missing = [
        (epoch, part, alone) for alone in by_convention(config) for epoch, part in _missing_of_measure(run, alone)
    ]
    return sorted(missing, key=lambda evaluation: evaluation[0])


def _missing_of_measure(run: Run, config: Config) -> list[tuple[int, str]]:
    measure, last = config.measure, [config.training.epochs]
    recorded = {(record.epoch, record.split) for record in run.load_measure(measure)}
    test = None if measure.test_every_snapshot else last if measure.test_epochs is None else measure.test_epochs
    requested = {"train": measure.epochs, "test": test}
    if config.robustness is not None:
        requested[ROBUSTNESS] = last
        if run.has_robustness(robustness_id(config.robustness, measure)):
            recorded.add((last[0], ROBUSTNESS))
    return [
        (epoch, part)
        for epoch in run.snapshot_epochs()
        for part, epochs in requested.items()
        if (epochs is None or epoch in epochs) and (epoch, part) not in recorded
    ]


def is_complete(run: Run, config: Config) -> bool:
    """Whether a run is trained and evaluated as a config requests. Raises DamagedRun."""
    return run.finished and not missing_evaluations(run, config)


def outcome_of(run: Run, config: Config, trained_epochs: int | None = 0) -> Outcome:
    """Return the outcome of a run that has ended. Raises DamagedRun."""
    train, test = (final_record(run, config.measure, config.training.epochs, split) for split in ("train", "test"))
    convention = convention_of(identity_of_measure(config.measure))
    return Outcome(run, run.state()["state"], train, trained_epochs, test, convention)


def outcome_of_task(
    run: Run, config: Config, task: Submitted, queue: Mapping[str, QueuedTask] | None, results: Path
) -> Outcome | EquisepError:
    """Return the outcome of a run that was submitted to a SLURM task; TaskEnded or DamagedRun if it failed.

    queue: the value of queued_jobs(); with None, for a queue that does not answer, the task counts as queued.
    """
    try:
        if is_complete(run, config):
            return outcome_of(run, config, trained_epochs=None)
    except DamagedRun as error:
        return error
    if queue is None or is_queued(task, queue):
        return Outcome(run, f"in task {task.task}")
    log = results / "slurm" / task.submission / f"{task.task}_0_log.err"
    return TaskEnded(f"task {task.task} ended before its runs were done ({log}){_reason_in(log)}; {HOW_TO_RESUME}")


def _reason_in(log: Path) -> str:
    """Return ": " and the line of a task's log that best explains why the task ended, '' without a log."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    # srun and slurmd usually report only that the task ended; if they give a reason, it is the only one.
    reasons = [line for line in lines if any(word in line.lower() for word in SLURM_REASONS)]
    reasons = reasons or [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
    return f": {reasons[-1]}" if reasons else ""


def exit_code(outcomes: Iterable[Outcome | Exception]) -> int:
    """Return 0 if nothing failed, 2 if the user can correct the first failure (EquisepError), otherwise 1."""
    failure = next((outcome for outcome in outcomes if isinstance(outcome, Exception)), None)
    if failure is None:
        return 0
    return 2 if isinstance(failure, EquisepError) else 1


def final_record(run: Run, measure: Measure, epochs: int, split: str = "train") -> LayerRecord | None:
    """Return a run's record after the last of its epochs under a measure, None if there is none."""
    records = run.load_measure(measure)
    return next((record for record in records if (record.epoch, record.split) == (epochs, split)), None)


def run_title(config: Mapping[str, Any]) -> str:
    """Return the title of a run in wandb and on the console: architecture, data set, optimizer, seed."""
    architecture, optimizer = config["architecture"], config["optimizer"]
    shape = " ".join(f"{key} {value}" for key, value in _shape_of(architecture).items())
    momentum = f" momentum {optimizer['momentum']:g}" if optimizer["momentum"] else ""
    return (
        f"{f'{_family_of(architecture)} {shape}'.strip()}, {_dataset_title(config['dataset'])}, "
        f"{optimizer['kind']}{momentum} {optimizer['learning_rate']:g}, seed {config['seed']}"
    )


def _family_of(architecture: Mapping[str, Any]) -> str:
    """Return the family of an architecture; of the user's own the class."""
    own = architecture["family"] == "custom"
    return str(architecture["target"].rpartition(".")[2] if own else architecture["family"])


def _shape_of(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells an architecture from others of its family."""
    if architecture["family"] == "custom":
        layers = {} if architecture["layers"] == "auto" else {"layers": architecture["layers"]}
        return dict(architecture["arguments"]) | layers
    defaults = {"batch_norm": True, "activation": "relu", "width_multiplier": 1.0, "family": architecture["family"]}
    return {key: value for key, value in architecture.items() if value not in (None, defaults.get(key))}


def _dataset_title(dataset: Mapping[str, Any]) -> str:
    return " ".join(str(part) for part in (dataset["name"], dataset["size"]) if part is not None)


def status_table(results: Path, filters: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return a row per run: run, state, epoch, of (epochs); convention, r, decay_ratio at the end; configuration.

    A damaged run names the damaged file. The state of a run that was submitted to SLURM includes its task and whether
    that is pending, running or ended; a run that a living sweep is going to train is waiting. filters: values by
    dotted field of the config, or by state, run or experiment. Raises ConfigError for a filter that is neither.
    """
    import pandas as pd

    filters = dict(filters or {})
    for name in filters:
        if name not in (*STATUS_FILTERS, *field_names()):
            raise ConfigError(f"{name}: no such filter{nearest(name, [*STATUS_FILTERS, *field_names()])}")
    require_one_of("state", filters.get("state", "done"), STATES)
    # squeue is called once, and only if a run was submitted.
    queue = cache(queued_jobs)
    planned = load_planned_runs(results)
    rows: list[dict[str, Any]] = []
    for run in all_runs(results):
        try:
            config, state, epochs = run.config(), run.state()["state"], run.epochs()
            if state == "new" and run.id in planned:
                state = "waiting"
            if state not in FINISHED and (task := run.submitted()):
                state += f", task {task.task} {_state_of_task(task, queue())}"
            row = _row(run.id, state, config, len(epochs)) | _law_of(run, config)
            if _matches(filters, run.id, state, config):
                rows.append(row)
        except DamagedRun as error:
            if not filters or filters.get("state") == "damaged":
                label = "" if isinstance(error, LaterProtocol) else "damaged: "
                rows.append({"run": run.id, "state": label + str(error).rsplit(": ", 1)[0]})
    known = {run.id for run in all_runs(results)}
    for identity, config in planned.items():
        if identity not in known and _matches(filters, identity, "waiting", config):
            rows.append(_row(identity, "waiting", config, 0))
    return pd.DataFrame(rows, dtype=object).fillna("")


def _row(identity: str, state: str, config: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    architecture, optimizer = config["architecture"], config["optimizer"]
    shape = _shape_of(architecture)
    return {
        "run": identity,
        "state": state,
        "epoch": epochs,
        "of": config["training"]["epochs"],
        "convention": "",
        "r": "",
        "decay_ratio": "",
        "dataset": _dataset_title(config["dataset"]),
        "architecture": " ".join([_family_of(architecture), *(f"{key}={value}" for key, value in shape.items())]),
        "optimizer": f"{optimizer['kind']} {optimizer['learning_rate']:g}",
        "seed": config["seed"],
        "experiment": config["experiment"] or "",
    }


def _law_of(run: Run, config: Mapping[str, Any]) -> dict[str, str]:
    """Return convention, r and decay ratio of a run's first measure, after the last epoch on the training set."""
    measure = Measure(**config["measure"])
    record = final_record(run, measure, config["training"]["epochs"])
    law = record.law() if record else None
    if law is None:
        return {}
    convention = convention_of(identity_of_measure(measure))
    return {"convention": convention, "r": f"{law.pearson_r:.4f}", "decay_ratio": f"{law.decay_ratio:.4f}"}


def _matches(filters: Mapping[str, str], identity: str, state: str, config: Mapping[str, Any]) -> bool:
    for name, text in filters.items():
        if name == "run":
            matches = identity.startswith(text)
        elif name == "state":
            matches = state.partition(",")[0] == text
        else:
            value: Any = config
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            matches = str(value) == text or value == yaml.safe_load(text)
        if not matches:
            return False
    return True


def _state_of_task(task: Submitted, queue: Mapping[str, QueuedTask] | None) -> str:
    if queue is None:
        return "(squeue does not answer)"
    return queue[task.task].state.lower() if is_queued(task, queue) else "ended"
