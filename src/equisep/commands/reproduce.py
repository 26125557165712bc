"""The experiments of a profile: missing runs are trained, each experiment is drawn and judged, the verdicts are listed.

If a data set cannot be found or downloaded, its experiments are skipped with a message.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from equisep.analysis.experiments import LAUNCHER, PlannedRun, expand_experiment, load_profile, sweeps_of
from equisep.analysis.figures.catalogue import reproduction_of
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.result import without_places
from equisep.analysis.saved_tables import SavedTables
from equisep.analysis.verdicts import NOT_TESTED
from equisep.config import PAPER, Config, ConfigError, compose_config, config_hash, refuse_unknown_words
from equisep.data import DataUnavailable
from equisep.execution import Job, choose_device, prepare
from equisep.store import DamagedRun

# Throughput of training relative to large matrix products, measured on 2 cores: by the native engine 0.5 to 0.65 for
# feed-forward networks, with measuring 0.4, and 0.3 to 0.6 for convolutions; 0.3 to 0.5 for populations, 0.2 to 0.4 for
# convolutions in plain modules.
EFFICIENCY = {True: 0.4, False: 0.3}
TABLES = "must be set once, to a folder of saved tables"


@dataclass(frozen=True)
class Plan:
    """An experiment of the profile: its sweeps, missing runs and number of networks.

    saved: tables with runs that are not trained again. commands: overrides of the sweeps that train the others.
    problem: why some runs cannot be prepared, or ''. blocked: whether this holds for all of them.
    """

    name: str
    sweeps: tuple[tuple[str, ...], ...]
    to_train: tuple[Job, ...]
    networks: int
    commands: tuple[tuple[str, ...], ...]
    saved: SavedTables | None = None
    problem: str = ""
    blocked: bool = False


def reproduce(profile: str, overrides: Sequence[str]) -> int:
    """Train, draw and judge the experiments of a profile; return the exit code, 1 if something was not run.

    overrides: of every run; also tables=FOLDER: runs that the saved tables FOLDER/NAME/NAME.csv hold are not trained
    again. Raises ConfigError for an unknown profile, override or folder.
    """
    folders = [Path(word.removeprefix("tables=")) for word in overrides if word.startswith("tables=")]
    if len(folders) > 1 or "tables=" in overrides or not all(folder.is_dir() for folder in folders):
        raise ConfigError(f"tables={'' if 'tables=' in overrides else folders[-1]}: {TABLES}")
    overrides = [word for word in overrides if not word.startswith("tables=")]
    refuse_unknown_words(overrides, ("tables",))
    config = compose_config([word for word in overrides if word.startswith(("results=", "compute."))])
    plans = [
        make_plan(
            name, sweeps, overrides, next((folder / name for folder in folders if (folder / name).exists()), None)
        )
        for name, sweeps in load_profile(profile).items()
    ]
    print(estimate(plans, config), flush=True)
    verdicts: dict[str, Mapping[str, Any]] = {}
    for plan in plans:
        if plan.problem:
            print(f"{plan.name}: {plan.problem}", file=sys.stderr, flush=True)
        if plan.blocked:
            verdicts[plan.name] = not_tested(plan.problem)
            continue
        for sweep in plan.commands if plan.to_train else ():
            print(f"{plan.name}: {' '.join(sweep)}".rstrip(": "), flush=True)
            if train(plan.name, sweep) == 130:
                return 130
        verdicts[plan.name] = draw(plan, Path(config.results))
    print(tabulate(verdicts, Path(config.results)))
    tested = (verdict["verdict"] for record in verdicts.values() for verdict in record["verdicts"].values())
    return int(NOT_TESTED in tested)


def make_plan(name: str, sweeps: Sequence[Sequence[str]], overrides: Sequence[str], folder: Path | None) -> Plan:
    """Return the plan of an experiment; data sets that are unavailable and damaged runs are noted.

    folder: of saved tables with runs that are not trained again, or None.
    """
    complete = tuple((*sweep, *overrides) for sweep in sweeps)
    saved = _figure(name).saved(folder)
    expanded = [expand_experiment(name, sweep) for sweep in complete]
    all_points = points = [point for part in expanded for point in part]
    commands = complete
    if saved:
        lacking = [_lacking(name, saved, part) for part in expanded]
        points = [point for part in lacking for point in part]
        commands = tuple(
            (*words, *(word for word in sweep if word.startswith(LAUNCHER)))
            for sweep, part in zip(complete, lacking, strict=True)
            for words in sweeps_of(part)
        )
    jobs: dict[Path, Job] = {}
    problem = ""
    for point in points:
        try:
            job = prepare(point.config)
        except (DataUnavailable, DamagedRun) as error:
            problem = problem or str(error)
        else:
            jobs[job.run.path] = job
    # The sweep also takes missing measures of trained runs.
    to_train = tuple(job for job in jobs.values() if not job.complete)
    networks = len({config_hash(point.config) for point in all_points})
    return Plan(name, complete, to_train, networks, commands, saved, problem, bool(points) and not jobs)


def _figure(name: str) -> Reproduction:
    figure = reproduction_of(name)
    if figure is None:
        raise ConfigError(f"experiment={name}: the profile names an experiment that there is not")
    return figure


def _lacking(name: str, saved: SavedTables, points: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs of an experiment that saved tables do not hold."""
    epochs = _figure(name).epochs
    return [point for point in points if saved.of(point.config, epochs(point.config.training)) is None]


def estimate(plans: Sequence[Plan], config: Config) -> str:
    """Return a table of the networks to train with the estimated time on this machine."""
    jobs = {job.run.path: job for plan in plans for job in plan.to_train}
    rate = multiplication_rate(config) if jobs else 1.0

    def seconds_of(jobs: Iterable[Job]) -> float:
        return sum(job.operations / EFFICIENCY[job.native_kernels is not None] for job in jobs) / rate

    rows, counted = [], set()
    for plan in plans:
        # Runs shared by several experiments are trained once, for the first.
        fresh = [job for job in plan.to_train if job.run.path not in counted]
        counted |= {job.run.path for job in fresh}
        seconds = seconds_of(fresh)
        time_needed = (
            "not run" if plan.blocked else f"{seconds / 60:.1f} min" + (", incomplete" if plan.problem else "")
        )
        counts = {"networks": plan.networks, "to train": len(fresh)}
        rows.append({"experiment": plan.name} | counts | {"estimate": time_needed})
    total = seconds_of(jobs.values())
    table = pd.DataFrame(rows).to_string(index=False)
    return f"{table}\n{len(jobs)} networks to train, about {total / 3600:.1f} h on this machine (within a factor of 2)"


def multiplication_rate(config: Config) -> float:
    """Return the rate of large matrix products on the config's device, in floating-point operations per second."""
    device = choose_device(config.compute.device)
    size = 2048
    matrix = torch.randn(size, size, device=device)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix).sum().item()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(times)[2]


def train(name: str, sweep: Sequence[str]) -> int:
    """Run an experiment's sweep in a process of its own; return its exit code, with a message if it is not 0."""
    command = [sys.executable, "-m", "equisep", "-m", f"experiment={name}", *sweep]
    code = subprocess.run(command, check=False).returncode
    if code:
        print(f"{name}: the sweep ended with exit code {code}", file=sys.stderr, flush=True)
    return code


def draw(plan: Plan, results: Path) -> Mapping[str, Any]:
    """Write an experiment's figure, tables and verdict; return the verdict's record."""
    reproduction = _figure(plan.name)
    try:
        calls = [shlex.join(without_places(sweep)) for sweep in plan.sweeps]
        result = reproduction.make(reproduction.collect(plan.sweeps, saved=plan.saved), calls)
        result.write(results)
    except (ConfigError, DamagedRun) as error:
        print(f"{plan.name}: {error}", file=sys.stderr, flush=True)
        return not_tested(str(error))
    return result.record()


def not_tested(reason: str) -> Mapping[str, Any]:
    """Return the record of an experiment without a verdict."""
    return {"verdicts": {PAPER: {"verdict": NOT_TESTED, "statistics": reason}}}


def tabulate(verdicts: Mapping[str, Mapping[str, Any]], results: Path) -> str:
    """Write results/tables/verdicts.csv and return a human-readable table."""
    rows = [
        {"experiment": name, "convention": convention, "verdict": verdict["verdict"]}
        | {"statistics": verdict["statistics"], "notes": " ".join(record.get("notes", []))}
        for name, record in verdicts.items()
        for convention, verdict in record["verdicts"].items()
    ]
    table = pd.DataFrame(rows)
    (results / "tables").mkdir(parents=True, exist_ok=True)
    table.to_csv(results / "tables/verdicts.csv", index=False)
    return table[["experiment", "convention", "verdict"]].to_string(index=False)
