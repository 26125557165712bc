"""The mirror of a run in wandb: per epoch loss and accuracy, per measured epoch D of each layer, r, ρ, the layer plot.

The run folder is the truth; a mirror can be made again from it at any time (``python -m equisep mirror``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equisep.law import fit_law
from equisep.runs import LayerRecord, Run, all_runs
from equisep.schema import ConfigError, Measure, Tracking
from equisep.training import Epoch


class Mirror:
    """One wandb run that follows one run of ours; several may be open in one process."""

    def __init__(self, run: Run, config: Mapping[str, Any], tracking: Tracking, results: Path) -> None:
        """Open the wandb run; its id is the run's, its group the experiment; files go to RESULTS/wandb."""
        # Read when wandb is imported: without it, offline runs look up a telemetry server.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
        import wandb

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
                config=dict(config),
                dir=str(folder),
                mode="online" if tracking.mode == "online" else "offline",
                resume="allow" if tracking.mode == "online" else None,
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
        except wandb.errors.UsageError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"tracking.mode=online: {reason}; run `wandb login`, or take offline") from None
        self._image = wandb.Image
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def replay(self, epochs: Sequence[Epoch], records: Sequence[LayerRecord]) -> None:
        """Mirror what is recorded already, so that every segment of a run's log is whole up to its end.

        A wandb run that was resumed online has it already.
        """
        if self._run.resumed:
            return
        for epoch in epochs:
            self.log_epoch(epoch)
        for record in records:
            self.log_measure(record)

    def log_epoch(self, epoch: Epoch) -> None:
        """Mirror an epoch of training."""
        self._log(
            {
                "epoch": epoch.epoch,
                "training/loss": epoch.loss,
                "training/accuracy": epoch.accuracy,
                "training/learning_rate": epoch.learning_rate,
            }
        )

    def log_measure(self, record: LayerRecord, *, with_plot: bool = False) -> None:
        """Mirror a measure of a snapshot: D of each layer, and where it has a logarithm r, ρ and the plot."""
        values: dict[str, Any] = {"epoch": record.epoch}
        values |= {f"{record.split}/D/{layer:02d}": value for layer, value in enumerate(record.fuzziness)}
        values |= {f"{record.split}/loss": record.loss, f"{record.split}/accuracy": record.accuracy}
        if all(math.isfinite(value) and value > 0 for value in record.fuzziness):
            law = fit_law(record.fuzziness)
            values |= {f"{record.split}/r": law.pearson_r, f"{record.split}/decay_ratio": law.decay_ratio}
            if with_plot:
                from equisep.figures import layer_plot

                figure = layer_plot(record.fuzziness, f"{record.split}, epoch {record.epoch}")
                values[f"{record.split}/layers"] = self._image(figure)
        self._log(values)

    def finish(self, *, failed: bool = False) -> None:
        """Close the wandb run."""
        self._run.finish(exit_code=1 if failed else 0)

    def _log(self, values: dict[str, Any]) -> None:
        self._run.log(values)


def run_title(config: Mapping[str, Any]) -> str:
    """Return what a reader calls a run: architecture, data set, optimizer, seed."""
    architecture = config["architecture"]
    shape = " ".join(f"{key} {value}" for key, value in architecture.items() if key != "family")
    optimizer, dataset = config["optimizer"], config["dataset"]
    momentum = f" momentum {optimizer['momentum']:g}" if optimizer["momentum"] else ""
    return (
        f"{architecture['family']} {shape}, {dataset['name']} {dataset['size']}, "
        f"{optimizer['kind']}{momentum} {optimizer['learning_rate']:g}, seed {config['seed']}"
    )


def mirror_store(results: Path, tracking: Tracking) -> int:
    """Mirror every run of the store again, under the measure its config names; return how many there were."""
    runs = list(all_runs(results))
    for run in runs:
        config = run.config()
        mirror = Mirror(run, config, tracking, results)
        mirror.replay(run.epochs(), run.load_measure(Measure(**config["measure"])))
        mirror.finish()
    return len(runs)
