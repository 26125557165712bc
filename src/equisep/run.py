"""Configs in, finished runs out: the one place where data, networks, training, measure, store and mirror meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from equisep.data import Data, load_data
from equisep.law import Law, fit_law
from equisep.measure import INPUT, evaluate, measure_separation
from equisep.networks import build_network
from equisep.runs import LayerRecord, Run, machine_facts, run_id
from equisep.schema import Config, ConfigError, Dataset, to_plain
from equisep.tracking import Mirror, run_title
from equisep.training import Epoch, Trainer


@dataclass(frozen=True)
class Outcome:
    """What became of a run. state: done or diverged; final: the last measure on the training set, if there is one."""

    run: Run
    state: str
    final: LayerRecord | None
    trained_epochs: int

    def law(self) -> Law:
        """Return the law fitted to the last measure; raises ValueError where there is none."""
        if self.final is None:
            raise ValueError(f"run {self.run.id} has no measure: it is {self.state}")
        return fit_law(self.final.fuzziness)


def execute(config: Config, console: Console | None = None) -> Outcome:
    """Train the run a config describes as far as it is not trained yet, measure and mirror it.

    A finished run is not trained again, an interrupted one goes on from its checkpoint. Raises
    ConfigError or DataUnavailable before any work where the config cannot be run.
    """
    console = console or Console(stderr=True)
    device = choose_device(config.compute.device)
    torch.set_num_threads(config.compute.threads)
    data = _load_cached(yaml.safe_dump(to_plain(config.dataset)))
    digest = data.train.digest()
    run = Run(Path(config.results), run_id(config, digest))
    state = run.state()
    if state["state"] == "running":
        raise ConfigError(f"run {run.id} is being trained by {state['owner']}: wait for it, or stop it first")
    _refuse_epochs_not_kept(run, config)
    job = Job(config, run, data, device)
    job.network()
    trained = 0
    if not run.finished:
        run.create(config, digest, data.source)
        console.print(f"run {run.id}: {run_title(to_plain(config))} ({data.source}; {device})", highlight=False, soft_wrap=True)
    if not run.finished or job.missing():
        with _mirrored(run, config) as mirror:
            if not run.finished:
                trained = _train(job, mirror, console)
            job.measure_missing(mirror)
    return Outcome(run, run.state()["state"], final_record(run, config), trained)


@dataclass(frozen=True)
class Job:
    """A run, the config that asks for it, and the data and device it is trained and measured on."""

    config: Config
    run: Run
    data: Data
    device: torch.device

    def network(self) -> nn.Module:
        """Return the freshly initialised network, on the device."""
        shape = tuple(self.data.train.inputs.shape[1:])
        return build_network(self.config.architecture, shape, len(self.data.classes), self.config.seed).to(self.device)

    def missing(self) -> list[tuple[int, str]]:
        """Return the (epoch, split) pairs that the config asks for, that have a snapshot and no record yet."""
        measure = self.config.measure
        have = {(record.epoch, record.split) for record in self.run.load_measure(measure)}
        last = [self.config.training.epochs]
        wanted = {"train": measure.epochs, "test": last if measure.test_epochs is None else measure.test_epochs}
        return [
            (epoch, split)
            for epoch in self.run.snapshot_epochs()
            for split, epochs in wanted.items()
            if (epochs is None or epoch in epochs) and (epoch, split) not in have
        ]

    def measure_missing(self, mirror: Mirror | None) -> None:
        """Measure, record and mirror what is missing."""
        missing = self.missing()
        if not missing:
            return
        network = self.network()
        records = self.run.load_measure(self.config.measure)
        for epoch, split in missing:
            network.load_state_dict(self.run.load_snapshot(epoch))
            records.append(_measure_snapshot(network, self.data, self.config, epoch, split))
            self.run.save_measure(self.config.measure, records)
            if mirror:
                mirror.log_measure(records[-1], with_plot=epoch == self.config.training.epochs)


def final_record(run: Run, config: Config, split: str = "train") -> LayerRecord | None:
    """Return a run's last record under a config's measure, or None where there is none."""
    records = [record for record in run.load_measure(config.measure) if record.split == split]
    return records[-1] if records else None


def choose_device(name: str) -> torch.device:
    """Return the device a config names; raises ConfigError where the machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"compute.device={name}: not on this machine ({reason}); take cpu or auto") from None
    return device


def _train(job: Job, mirror: Mirror | None, console: Console) -> int:
    """Train from the checkpoint, or from the start, to the end of the schedule; return the epochs trained."""
    run, training = job.run, job.config.training
    network = job.network()
    trainer = Trainer(network, job.data.train.to(job.device), job.config.optimizer, training, job.config.seed)
    seconds = 0.0
    checkpoint = run.load_checkpoint(job.device)
    if checkpoint is not None:
        trainer.load_state(checkpoint["trainer"])
        seconds = checkpoint["seconds"]
    started_at = trainer.epoch
    run.forget_epochs_after(started_at)
    run.write_state("running", machine=machine_facts(job.device))
    kept = training.kept_epochs()
    diverged = False
    try:
        with _progress(console, training.epochs, started_at) as advance:
            if trainer.epoch == 0 and 0 in kept:
                run.save_snapshot(0, network.state_dict())
            while trainer.epoch < training.epochs and not diverged:
                clock = time.perf_counter()
                epoch = trainer.run_epoch()
                seconds += time.perf_counter() - clock
                diverged = epoch.diverged
                run.append_epoch(epoch)
                if mirror:
                    mirror.log_epoch(epoch)
                advance(epoch)
                if epoch.epoch in kept and not diverged:
                    run.save_snapshot(epoch.epoch, network.state_dict())
                    job.measure_missing(mirror)
                if epoch.epoch % job.config.compute.checkpoint_every == 0:
                    run.save_checkpoint({"trainer": trainer.state(), "seconds": seconds})
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        run.write_state("interrupted" if stopped else "failed", error=f"{type(error).__name__}: {error}")
        raise
    run.write_state("diverged" if diverged else "done", seconds=round(seconds, 3))
    run.remove_checkpoint()
    return trainer.epoch - started_at


def _measure_snapshot(network: nn.Module, data: Data, config: Config, epoch: int, name: str) -> LayerRecord:
    split = data.train if name == "train" else data.test
    device = next(network.parameters()).device
    inputs, labels = split.inputs.to(device), split.labels.to(device)
    layers: Sequence[str] = network.layers  # type: ignore[assignment]
    separations = measure_separation(
        network,
        inputs,
        labels,
        layers,
        batch_norm=config.measure.batch_norm,  # type: ignore[arg-type]
        batch_size=config.measure.batch_size,
        weighting=config.measure.weighting,  # type: ignore[arg-type]
        memory_limit=config.measure.memory_limit,
    )
    evaluation = evaluate(network, inputs, labels)
    return LayerRecord(
        epoch=epoch,
        split=name,
        layers=(INPUT, *layers),
        fuzziness=tuple(value.fuzziness for value in separations.values()),
        rank=tuple(value.rank for value in separations.values()),
        classes=separations[INPUT].classes,
        loss=evaluation.loss,
        accuracy=evaluation.accuracy,
    )


def _refuse_epochs_not_kept(run: Run, config: Config) -> None:
    """Raise ConfigError where a measure asks for epochs whose weights the run does not or will not keep."""
    finished = run.finished
    kept = set(run.snapshot_epochs() if finished else config.training.kept_epochs())
    for name, epochs in (("epochs", config.measure.epochs), ("test_epochs", config.measure.test_epochs)):
        absent = sorted(set(epochs or ()) - kept)
        if absent and run.state()["state"] != "diverged":
            whose = f"run {run.id} kept" if finished else "training.snapshots keeps"
            raise ConfigError(f"measure.{name}={epochs}: {whose} the epochs {sorted(kept)}, not {absent[0]}")


@lru_cache(maxsize=4)
def _load_cached(dataset: str) -> Data:
    return load_data(Dataset(**yaml.safe_load(dataset)))


@contextmanager
def _mirrored(run: Run, config: Config) -> Iterator[Mirror | None]:
    """Open the run's mirror and tell it what is recorded already; close it in the end."""
    if config.tracking.mode == "off":
        yield None
        return
    mirror = Mirror(run, to_plain(config), config.tracking, Path(config.results))
    mirror.replay(run.epochs(), run.load_measure(config.measure))
    try:
        yield mirror
    except BaseException:
        mirror.finish(failed=True)
        raise
    mirror.finish()


@contextmanager
def _progress(console: Console, epochs: int, done: int) -> Iterator[Callable[[Epoch], None]]:
    """Show a bar with loss, accuracy and time left; the context value advances it by an epoch."""
    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=epochs, completed=done, loss=float("nan"), accuracy=0.0)
        yield lambda epoch: progress.update(bar, completed=epoch.epoch, loss=epoch.loss, accuracy=epoch.accuracy)
