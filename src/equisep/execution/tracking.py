"""The wandb mirror of a run: loss and accuracy per epoch; D of each layer, r, ρ and the layer plot per measured epoch.

The run folder is authoritative; a mirror can be written again from it at any time (``equisep mirror``).
"""

import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from equisep.config import ConfigError, EquisepError, Measure, Tracking, convention_of, measure_id, require
from equisep.execution.layer_image import layer_image
from equisep.measures import Epoch, LayerRecord, RobustnessResults, accuracy_areas
from equisep.store import DamagedRun, Run, all_runs, robustness_to_json, run_title


class Mirror:
    """The wandb run of one run of the store; several may be open in one process.

    The run's first measure is logged under ``train/`` and ``test/``, any other measure under its convention, such as
    ``evaluation/train/``, or its id where a convention has several. The summary has r, ρ and the depth by themselves.
    What is logged is passed on in order by one thread per process, which mostly waits for wandb while this one trains;
    it imports wandb and opens the run too.
    """

    def __init__(self, run: Run, tracking: Tracking, results: Path) -> None:
        """Open the wandb run, in RESULTS/wandb with the experiment as group, and log what is already recorded.

        Raises ConfigError where tracking=online and wandb refuses.
        """
        # Read before the wandb run is opened: what cannot be read leaves none behind.
        config, finished, epochs = run.config(), run.finished, run.epochs()
        measures, evaluations = run.load_measures(), run.load_robustness()
        # With a relative folder, wandb silently writes nothing once the working folder changes.
        folder = results.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.broken = False
        self._run: Any = None
        self._online = tracking.mode == "online"
        self._stored_run = run
        self._last = int(config["training"]["epochs"])
        self._first_measure = measure_id(Measure(**config["measure"]))
        self._measures: dict[str, dict[str, Any]] = {}
        self._robustness: dict[str, str] = {}
        opened = self._guard(lambda: self._open(config, tracking, folder))
        if self._online:
            try:
                opened.result()
            except BaseException:
                self.broken = True
                _thread().submit(self._abandon)
                raise
        if not finished:
            self._log_state()
        # Every segment of a run's log repeats what is already recorded, so that it is complete up to its end.
        for epoch in epochs:
            self.log_epoch(epoch)
        for measure, measurement in measures.items():
            for record in measurement.records:
                self.log_measure(measure, measurement.settings, record)
        for identity, evaluation in evaluations.items():
            self.log_robustness(identity, evaluation)

    def _open(self, config: Mapping[str, Any], tracking: Tracking, folder: Path) -> None:
        """Open the wandb run, in the thread that calls wandb."""
        wandb = _wandb()
        try:
            self._run = wandb.init(
                project=tracking.project,
                entity=tracking.entity,
                id=self._stored_run.id,
                name=run_title(config),
                group=config["experiment"] or "single",
                config=config,
                dir=str(folder),
                mode=tracking.mode,
                resume="allow" if self._online else None,
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    x_disable_stats=True,
                    # The run's state names the lock and what differs from it; listing all packages takes longer.
                    x_save_requirements=False,
                ),
            )
        except wandb.errors.UsageError as error:
            reason = str(error).splitlines()[0]
            remedy = "; run `wandb login` or set tracking.mode=offline" if self._online else ""
            raise ConfigError(f"tracking.mode={tracking.mode}: {reason}{remedy}") from None
        self._image = wandb.Image
        # A wandb run that is resumed online already has the epochs up to this one.
        self._logged_epochs = int(dict(self._run.summary).get("epoch", 0)) if self._run.resumed else 0
        # Of its own it would be a chart of a straight line.
        self._run.define_metric("epoch", hidden=True)
        depth = config["architecture"].get("depth")
        if depth is not None:
            self._run.summary.update({"depth": depth})
        self._run.define_metric("*", step_metric="epoch")

    def log_epoch(self, epoch: Epoch) -> None:
        """Mirror an epoch of training."""
        values = {"loss": epoch.loss, "accuracy": epoch.accuracy, "learning_rate": epoch.learning_rate}
        row = {"epoch": epoch.epoch} | {f"training/{name}": value for name, value in values.items()}

        def log_once() -> None:
            if epoch.epoch > self._logged_epochs:
                self._run.log(row)

        self._guard(log_once)

    def log_measure(self, measure: str, settings: Mapping[str, Any], record: LayerRecord) -> None:
        """Mirror a measure of a snapshot: D of each layer, r and ρ if D has a logarithm, and the final epoch's plot.

        measure: its id. settings: its config, which is added to the wandb config with the names of the layers.
        """
        first = measure == self._first_measure
        if measure not in self._measures:
            named = convention_of(settings) + "/"
            taken = {facts["prefix"] for facts in self._measures.values()}
            other = named if re.fullmatch(r"\w+/", named) and named not in taken else f"measure_{measure}/"
            facts = {"prefix": "" if first else other, "layers": list(record.layers)}
            self._measures[measure] = facts | {"classes": record.classes, "settings": dict(settings)}
            update = {"measured": dict(self._measures)}
            self._guard(lambda: self._run.config.update(update, allow_val_change=True))
        prefix = self._measures[measure]["prefix"] + record.split
        values: dict[str, Any] = {"epoch": record.epoch}
        values |= {f"{prefix}/D/{layer:02d}": value for layer, value in enumerate(record.fuzziness)}
        values |= {f"{prefix}/rank/{layer:02d}": rank for layer, rank in enumerate(record.rank)}
        values |= {f"{prefix}/loss": record.loss, f"{prefix}/accuracy": record.accuracy}
        law = record.law()
        if law is not None:
            values |= {f"{prefix}/r": law.pearson_r, f"{prefix}/decay_ratio": law.decay_ratio}
        self._log(values)
        if first and law is not None and (record.epoch, record.split) == (self._last, "train"):
            self._guard(lambda: self._run.summary.update({"r": law.pearson_r, "decay_ratio": law.decay_ratio}))
        if law is not None and record.epoch == self._last:
            # A separate row, so that the numbers are logged before the plot is drawn.
            def log_plot() -> None:
                plot = self._image(layer_image(record.fuzziness, f"{prefix}, epoch {record.epoch}"))
                self._run.log({"epoch": record.epoch, f"{prefix}/layers": plot})

            self._guard(log_plot)

    def log_robustness(self, identity: str, evaluation: RobustnessResults) -> None:
        """Mirror a robustness evaluation: all of it as text in the summary, and the area under each kind's curve."""
        self._robustness[identity] = robustness_to_json(evaluation)
        self._update_summary("robustness", dict(self._robustness))
        areas = accuracy_areas(evaluation.results)
        self._log({"epoch": self._last} | {f"robustness/{kind}": area for kind, area in areas.items()})

    def finish(self, *, failed: bool = False) -> None:
        """Close the wandb run; the final state is logged last, so that a log with it is complete."""
        self._log_state()
        self._guard(lambda: self._run.finish(exit_code=1 if failed else 0)).result()

    def _log_state(self) -> None:
        self._update_summary("run", self._stored_run.state())

    def _update_summary(self, key: str, value: Mapping[str, Any]) -> None:
        self._guard(lambda: self._run.summary.update({key: value}))

    def _log(self, values: dict[str, Any]) -> None:
        self._guard(lambda: self._run.log(values))

    def _guard(self, act: Callable[[], None]) -> Future[None]:
        """Call wandb unless it failed before: training continues without its mirror, which can be written again."""
        return _thread().submit(self._attempt, act)

    def _attempt(self, act: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            act()
        except BaseException as error:
            self.broken = True
            if not isinstance(error, Exception) or (self._online and isinstance(error, ConfigError)):
                raise
            reason = f"wandb stopped ({type(error).__name__}: {error})"
            remedy = "run `equisep mirror` to write the mirror again"
            warnings.warn(f"run {self._stored_run.id}: {reason}; {remedy}", stacklevel=2)

    def _abandon(self) -> None:
        """Close what was opened although nobody waits for it any more."""
        if self._run:
            self._run.finish(exit_code=1)


@cache
def _thread() -> ThreadPoolExecutor:
    """Return the thread that calls wandb."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="mirror")


@cache
def _wandb() -> Any:
    """Return wandb, without what it would import or compute anew for each run and a mirror does not need."""
    # Read when wandb is imported; without it, offline runs contact a telemetry server.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    import wandb
    import wandb.util

    # A mirror logs no data frames, which wandb imports pandas to recognise; others are recognised by their type's name.
    wandb.util.pd_available = False
    # Every run looks for inputs from wandb's launch service, whose modules take half a second to import.
    wandb.Run._detect_and_apply_job_inputs = lambda run: None  # type: ignore[assignment,method-assign]
    return wandb


def mirror_store(results: Path, tracking: Tracking, only: Run | None = None) -> int:
    """Mirror every run of the store from its records, with progress on the console; return the number of runs.

    only: mirror this run alone. Offline segments of earlier mirrors are replaced. Raises ConfigError for
    tracking=off, and after all other runs are mirrored DamagedRun for one that cannot be read, or EquisepError where
    wandb stopped.
    """
    require(tracking.mode != "off", "tracking.mode", tracking.mode, "nothing to mirror to; choose offline or online")
    runs, damaged = list(all_runs(results)) if only is None else [only], []
    broken = 0
    console = Console(stderr=True)
    shown = track(runs, "mirroring", console=console, transient=True, disable=not console.is_terminal)
    for number, run in enumerate(shown):
        if number and number % 25 == 0 and not console.is_terminal:
            console.print(f"mirrored {number} of {len(runs)} runs", highlight=False)
        earlier = list(results.glob(f"wandb/offline-run-*-{run.id}*")) if tracking.mode == "offline" else []
        try:
            mirror = Mirror(run, tracking, results)
        except DamagedRun as error:
            damaged.append(error)
            continue
        mirror.finish()
        if mirror.broken:
            broken += 1
            continue
        for segment in earlier:
            shutil.rmtree(segment)
    if damaged:
        raise DamagedRun(f"{damaged[0]} ({len(runs) - len(damaged) - broken} of {len(runs)} runs are mirrored)")
    if broken:
        raise EquisepError(f"wandb stopped: {len(runs) - broken} of {len(runs)} runs are mirrored")
    return len(runs)
