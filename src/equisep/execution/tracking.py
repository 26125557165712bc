"""The mirror of a run in wandb: per epoch loss and accuracy, per measured epoch D of each layer, r, ρ, the layer plot.

The run folder is the truth; a mirror can be made again from it at any time (``python -m equisep mirror``).
"""

import io
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from equisep.config import ConfigError, Measure, Tracking, measure_id
from equisep.measures import Epoch, LayerRecord, Measurement, RobustnessResults, accuracy_areas
from equisep.store import Run, all_runs, robustness_to_json, run_title


class Mirror:
    """One wandb run that follows one run of ours; several may be open in one process.

    The measure that the run was asked for first is logged under ``train/`` and ``test/``, every other
    one under its own id as well, so that no two share a key.
    """

    def __init__(self, run: Run, tracking: Tracking, results: Path) -> None:
        """Open the wandb run; its id is the run's, its group the experiment; files go to RESULTS/wandb."""
        # Read when wandb is imported: without it, offline runs look up a telemetry server.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
        import wandb

        config = run.config()
        # wandb writes nothing, without a word, below a relative folder once the working folder changes.
        folder = results.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=tracking.project,
                entity=tracking.entity,
                id=run.id,
                name=run_title(config),
                group=config["experiment"] or "single",
                config=config,
                dir=str(folder),
                mode="online" if tracking.mode == "online" else "offline",
                resume="allow" if tracking.mode == "online" else None,
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
        except wandb.errors.UsageError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"tracking.mode=online: {reason}; run `wandb login`, or take offline") from None
        self._broken = False
        self._image = wandb.Image
        self._last = int(config["training"]["epochs"])
        self._first_measure = measure_id(Measure(**config["measure"]))
        self._measures: dict[str, dict[str, Any]] = {}
        self._perturbed: dict[str, str] = {}
        # A wandb run that is taken up online has the epochs up to here already.
        self._known = int(dict(self._run.summary).get("epoch", 0)) if self._run.resumed else 0
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        self._own = run
        if not run.finished:
            self._log_state()

    def replay(
        self, epochs: Sequence[Epoch], measures: Mapping[str, Measurement], robustness: Mapping[str, RobustnessResults]
    ) -> None:
        """Mirror what is recorded already, so that every segment of a run's log is whole up to its end."""
        for epoch in epochs:
            self.log_epoch(epoch)
        for measure, measured in measures.items():
            for record in measured.records:
                self.log_measure(measure, measured.settings, record)
        for identity, perturbed in robustness.items():
            self.log_robustness(identity, perturbed)

    def log_epoch(self, epoch: Epoch) -> None:
        """Mirror an epoch of training."""
        if epoch.epoch > self._known:
            values = {"loss": epoch.loss, "accuracy": epoch.accuracy, "learning_rate": epoch.learning_rate}
            self._log({"epoch": epoch.epoch} | {f"training/{name}": value for name, value in values.items()})

    def log_measure(self, measure: str, settings: Mapping[str, Any], record: LayerRecord) -> None:
        """Mirror a measure of a snapshot: D of each layer, r and ρ where D has a logarithm, in the end the plot.

        measure: its id. settings: what it is; they go into the wandb config with the names of the layers.
        """
        prefix = record.split if measure == self._first_measure else f"measure_{measure}/{record.split}"
        if measure not in self._measures:
            place = prefix.removesuffix(record.split)
            facts = {"prefix": place, "layers": list(record.layers), "classes": record.classes}
            self._measures[measure] = facts | {"settings": dict(settings)}
            told = {"measures": dict(self._measures)}
            config: Any = self._run.config
            self._guard(lambda: config.update(told, allow_val_change=True))
        values: dict[str, Any] = {"epoch": record.epoch}
        values |= {f"{prefix}/D/{layer:02d}": value for layer, value in enumerate(record.fuzziness)}
        values |= {f"{prefix}/rank/{layer:02d}": rank for layer, rank in enumerate(record.rank)}
        values |= {f"{prefix}/loss": record.loss, f"{prefix}/accuracy": record.accuracy}
        law = record.law()
        if law is not None:
            values |= {f"{prefix}/r": law.pearson_r, f"{prefix}/decay_ratio": law.decay_ratio}
        self._log(values)
        if law is not None and record.epoch == self._last:
            # A row of its own: the numbers do not wait for the drawing.
            plot = self._image(_plot(record, f"{prefix}, epoch {record.epoch}"))
            self._log({"epoch": record.epoch, f"{prefix}/layers": plot})

    def log_robustness(self, identity: str, perturbed: RobustnessResults) -> None:
        """Mirror what perturbations did: the whole of it in the summary, as text, and a curve's area for each kind."""
        self._perturbed[identity] = robustness_to_json(perturbed)
        self._guard(lambda: self._run.summary.update({"robustness": dict(self._perturbed)}))
        areas = accuracy_areas(perturbed.results)
        self._log({"epoch": self._last} | {f"robustness/{kind}": area for kind, area in areas.items()})

    def finish(self, *, failed: bool = False) -> None:
        """Close the wandb run; that the run ended is told last, so that a log that tells it is whole."""
        self._log_state()
        self._guard(lambda: self._run.finish(exit_code=1 if failed else 0))

    def _log_state(self) -> None:
        state = self._own.state()
        self._guard(lambda: self._run.summary.update({"run": state}))

    def _log(self, values: dict[str, Any]) -> None:
        self._guard(lambda: self._run.log(values))

    def _guard(self, act: Callable[[], None]) -> None:
        """Act, unless wandb failed before: training goes on without its mirror, which can be made again."""
        if self._broken:
            return
        try:
            act()
        except Exception as error:
            self._broken = True
            remedy = "`python -m equisep mirror` writes it again"
            warnings.warn(
                f"run {self._run.id}: wandb stopped ({type(error).__name__}: {error}); {remedy}", stacklevel=2
            )


def _plot(record: LayerRecord, title: str) -> PIL.Image.Image:
    # Drawn here, not by wandb, which would go through pyplot and its one figure for the whole process.
    from equisep.plots import layer_plot

    content = io.BytesIO()
    layer_plot(record.fuzziness, title).savefig(content, format="png")
    return PIL.Image.open(content)


def mirror_store(results: Path, tracking: Tracking) -> int:
    """Mirror every run of the store again from its records alone; return how many there were.

    Offline segments that an earlier mirror of a run left are replaced.
    """
    runs = list(all_runs(results))
    for run in runs:
        earlier = list(results.glob(f"wandb/offline-run-*-{run.id}*")) if tracking.mode == "offline" else []
        mirror = Mirror(run, tracking, results)
        mirror.replay(run.epochs(), run.load_measures(), run.load_robustness())
        mirror.finish()
        for segment in earlier:
            shutil.rmtree(segment)
    return len(runs)
