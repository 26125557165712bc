"""A sweep that is killed again and again: ``python -m benchmarks.kills [--kills 50] [--seed 0]``.

A small sweep with wandb logs is run once without a disturbance. The same sweep in another store is killed with
SIGKILL, its workers and wandb's service included, in the middle of training, checkpointing, measuring and mirroring and
at random moments, and started again; when it is done, ``equisep mirror`` is killed twice. If the sweep is done before
it has been killed as often as requested, another store follows. Every store must end bit for bit as the undisturbed
one. Prints where the kills struck and what was compared; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from equisep.commands.main import main as equisep
from equisep.store import DamagedRun, Run, RunRecord, all_runs, read_store
from equisep.store.readers import read_logs
from tests.processes import Started, start

SWEEP = (
    *(
        "-m",
        "training=smoke",
        "training.epochs=60",
        f"training.snapshots={list(range(0, 60, 3))}".replace(" ", ""),
        "architecture.depth=4",
    ),
    *("optimizer=adam,sgd", "seed=1,2", "compute.checkpoint_every=2", "compute.checkpoint_seconds=0"),
    *("measure.test_every_snapshot=true", "tracking=offline", "hydra.launcher.max_members=2"),
)
PHASES = ("training", "checkpointing", "measuring", "mirroring")
# Kills in the middle of `equisep mirror`, per store.
KILLS_OF_MIRROR = 2
# What differs between any two runs of one sweep.
TIMES = ("seconds", "ended")
LIMIT_S = 300.0


@dataclass
class Campaign:
    """Kills of one sweep. folder: for its stores. workers: whether the sweep has worker processes in some rounds."""

    folder: Path
    rng: random.Random
    sweep: Sequence[str] = SWEEP
    workers: bool = True
    struck: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)

    def run(self, kills: int) -> None:
        """Kill sweeps this often, and mirrors besides; compare each store, when it is done, with an undisturbed one."""
        whole = self.folder / "whole"
        _end(self._start(whole, workers=False))
        store, number = self.folder / "killed-1", 1
        while True:
            if self.struck.total() < kills:
                ended = self._kill_once(store)
            else:
                _end(self._start(store, workers=False))
                ended = True
            if ended:
                for _ in range(KILLS_OF_MIRROR):
                    self._kill_mirror(store)
                _end(_start_mirror(store))
                self._compare(whole, store)
                if self.struck.total() >= kills:
                    return
                number += 1
                store = self.folder / f"killed-{number}"

    def _start(self, store: Path, *, workers: bool) -> Started:
        words = [*self.sweep, f"results={store}", f"hydra.launcher.processes={2 if workers else 1}"]
        return start(*words, target=_with_workers, environment=own_wandb_service())

    def _kill_once(self, store: Path) -> bool:
        """Start the sweep and kill it at a moment; return whether it ended before."""
        # Of three kills, one strikes anywhere and two where there were the fewest.
        wanted = min(PHASES, key=self.struck.__getitem__) if self.rng.random() < 2 / 3 else ""
        # Of the moments that are as wanted, not always the first.
        left, pause = self.rng.randrange(4), self.rng.uniform(0.0, 3.0)
        before = _newest(store)
        process = self._start(store, workers=self.workers and self.rng.random() < 0.2)
        started = time.monotonic()
        until, begun = started + LIMIT_S, 0.0
        last = ""
        while process.alive():
            assert time.monotonic() < until, f"no {wanted} in {LIMIT_S:.0f} s: {process.err.read_text()}"
            if not begun and _newest(store) > before:
                begun = time.monotonic()
            # Writing a checkpoint takes less time than looking at everything else.
            look = _writing_checkpoint if wanted == "checkpointing" else phase_of
            phase = look(store) if begun else ""
            left -= phase == wanted and phase != last
            last = phase
            now = time.monotonic()
            # A phase that does not come is not waited for until the end.
            if begun and ((wanted and left < 0 and phase == wanted) or now > begun + (6.0 if wanted else pause)):
                phase = _kill(process, store)
                self.struck[phase] += 1
                at = f"{phase}, {now - started:.1f} s after the start" + (f" ({wanted} wanted)" if wanted else "")
                print(f"kill {self.struck.total()}: {at}", file=sys.stderr, flush=True)
                return False
            time.sleep(0.0002)
        _end(process)
        return True

    def _kill_mirror(self, store: Path) -> None:
        process = _start_mirror(store)
        logs = {path.parent for path in store.glob("wandb/*/*.wandb")}
        until = time.monotonic() + LIMIT_S
        # Killed after it has begun to write a log; with four of them, before the last.
        while process.alive() and {path.parent for path in store.glob("wandb/*/*.wandb")} <= logs:
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(self.rng.uniform(0.0, 0.3))
        if process.alive():
            _kill(process, store)
            self.struck["equisep mirror"] += 1

    def _compare(self, whole: Path, store: Path) -> None:
        """Compare all that both stores record, and what is left in the killed one."""
        expected, found = list(all_runs(whole)), list(all_runs(store))
        self._same("runs", [run.id for run in expected], [run.id for run in found], store)
        for run in expected:
            other = Run(store, run.id)
            for pattern in ("snapshots/*", "metrics.jsonl", "measures/*", "robustness/*"):
                self._same(pattern.removesuffix("/*"), _contents(run, pattern), _contents(other, pattern), other.path)
            self._same("state", _untimed(run.state()), _untimed(other.state()), other.path)
            # The config names its results folder.
            config = {name: value for name, value in run.config().items() if name != "results"}
            self._same("config", config, {name: other.config().get(name) for name in config}, other.path)
            left = [path.name for path in other.path.rglob("*") if path.suffix in (".part", ".pt")]
            # The next process may be too early to know that nobody writes it any more.
            left = [name for name in left if not name.startswith(".config.yaml.")]
            left += [name for name in ("owner.json",) if (other.path / name).exists()]
            self._same("nothing left", [], left, other.path)
        self._same("records", _records(read_store(whole)), _records(read_store(store)), store)
        self._same("wandb logs", _records(read_store(whole)), _records_of_logs(store), store)

    def _same(self, what: str, expected: object, found: object, where: Path) -> None:
        self.compared[what] += 1
        if expected != found:
            self.differences.append(f"{what} of {where}: {_excerpt(expected, found)}")

    def report(self) -> str:
        """Return a table of the phases, with the number of kills in each, and of what was compared."""
        lines = [f"{'kills in':16} {'':>6}"]
        lines += [f"{phase:16} {self.struck[phase]:6}" for phase in dict.fromkeys((*PHASES, *sorted(self.struck)))]
        lines += [f"{'all':16} {self.struck.total():6}", "", f"{'compared':16} {'':>6}"]
        lines += [f"{what:16} {count:6}" for what, count in self.compared.items()]
        return "\n".join([*lines, f"{'different':16} {len(self.differences):6}", *self.differences])


def own_wandb_service() -> dict[str, str]:
    """Return the environment of a process with a wandb service of its own, where this process has one already."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}


def _start_mirror(store: Path) -> Started:
    return start("mirror", "tracking=offline", f"results={store}", environment=own_wandb_service())


def _with_workers(words: list[str]) -> int:
    """Run ``equisep``; a sweep that is asked for two processes has them, however small it is."""
    import equisep.execution.sweep as module

    module.MIN_OPERATIONS_FOR_WORKERS = 0  # type: ignore[attr-defined]
    return equisep(words)


def phase_of(store: Path) -> str:
    """Return what the process of a sweep does at this moment, as the files of its store tell."""
    phases = set()
    for run in store.glob("runs/*"):
        with suppress(FileNotFoundError):
            if (run / "owner.json").exists():
                phases.add(_phase_of_run(run))
    return next((phase for phase in ("checkpointing", "mirroring", "measuring") if phase in phases), "training")


def _writing_checkpoint(store: Path) -> str:
    return "checkpointing" if any(store.glob("runs/*/.checkpoint*")) else ""


def _phase_of_run(run: Path) -> str:
    names = os.listdir(run)
    kept_alone = "checkpoint.previous.pt" in names and "checkpoint.pt" not in names
    if kept_alone or any(name.startswith(".checkpoint") for name in names):
        return "checkpointing"
    if "state.json" not in names:
        return "training"
    snapshot, measured = _newest(run / "snapshots"), _newest(run / "measures")
    if snapshot > measured:
        return "measuring"
    # Ended, and measured: its log is being closed.
    with suppress(ValueError):
        if json.loads((run / "state.json").read_bytes())["state"] in ("done", "diverged"):
            return "mirroring"
    # Recorded as running, and no epoch is recorded: its log is being opened.
    opened = (run / "state.json").stat().st_mtime_ns >= max(snapshot, _newest(run, "metrics.jsonl", ".log"))
    return "mirroring" if opened else "training"


def _newest(folder: Path, *ends: str) -> int:
    """Return the time at which the newest file below a folder was written, in nanoseconds, 0 without one."""
    times = [0]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and (not ends or path.name.endswith(ends)):
                times.append(path.stat().st_mtime_ns)
    return max(times)


def _kill(process: Started, store: Path) -> str:
    """Kill a process, its group and its descendants at once; return the phase in which it was stopped."""
    process.signal(signal.SIGSTOP, group=True)
    phase = phase_of(store)
    descendants = list(_descendants(process.pid))
    process.signal(signal.SIGKILL, group=True)
    for descendant in descendants:
        with suppress(ProcessLookupError):
            os.kill(descendant, signal.SIGKILL)
    process.wait()
    return phase


def _descendants(process: int) -> Iterator[int]:
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from _descendants(child)


def _end(process: Started) -> None:
    ended = process.wait(LIMIT_S)
    assert ended.code == 0, ended.err


def _contents(run: Run, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.path.glob(pattern))}


def _untimed(state: Any) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in TIMES}


def _records(records: Iterator[RunRecord]) -> list[str]:
    """Return the records as text, in which NaN equals NaN, without times and folders."""
    untimed = []
    for record in records:
        config = {name: value for name, value in record.config.items() if name != "results"}
        state = dict(sorted(_untimed(record.state).items()))
        untimed.append(repr(replace(record, config=dict(sorted(config.items())), state=state)))
    return untimed


def _records_of_logs(store: Path) -> list[str]:
    """Return the records of a store's wandb logs; wandb's service may write their ends after the command has ended."""
    until = time.monotonic() + 30
    while True:
        records = list(read_logs(store / "wandb"))
        if time.monotonic() > until or not any(record.flaw for record in records):
            return _records(iter(records))
        time.sleep(0.1)


def _excerpt(expected: object, found: object) -> str:
    """Return the first difference of two values, with what is around it."""
    one, other = str(expected), str(found)
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"…{one[max(0, at - 60) : at + 60]}… became …{other[max(0, at - 60) : at + 60]}…"


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign, print its table and return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="number of kills (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--engine", default="auto", help="compute.engine of the sweep: auto, native or batched")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        sweep = (*SWEEP, f"compute.engine={arguments.engine}")
        campaign = Campaign(Path(folder), random.Random(arguments.seed), sweep)
        try:
            campaign.run(arguments.kills)
        except (AssertionError, DamagedRun) as error:
            campaign.differences.append(f"a sweep did not end: {error}")
        print(campaign.report())
    return 1 if campaign.differences else 0


if __name__ == "__main__":
    sys.exit(main())
