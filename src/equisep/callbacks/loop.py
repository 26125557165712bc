"""D of every layer during one's own training loop: on a fixed sample, every so often, to a table or to wandb."""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equisep.files import write_atomically
from equisep.measurement import METRICS, NetworkMeasurement, measure
from equisep.measures import Batches, Layers, NotFinite

if TYPE_CHECKING:
    import pandas as pd

# Share of the training time that measuring may take where nothing else is said.
BUDGET = 0.1
# Points of the sample that are measured by default.
POINTS = 1000
# Columns of the table that values of the user's cannot have.
COLUMNS = ("run", "epoch", "layer", "name", "D")


class SeparationCallback:
    """Measures a network on a fixed sample when it is called in a training loop; the network is left as it was.

    measurements: of each measured epoch. seconds, training_seconds: spent on measuring, and between the calls.
    """

    def __init__(
        self,
        network: nn.Module | None,
        sample: Any,
        *,
        run: str = "run",
        every: int | None = None,
        points: int | None = POINTS,
        layers: Layers = "auto",
        metrics: str | Sequence[str] = ("fuzziness",),
        to: str | Path | None = None,
        wandb_run: Any = None,
        **options: Any,
    ) -> None:
        """network: in training, on any device; None where it is made later and set as ``network`` before any call.

        sample: (inputs, labels), of which the first ``points`` are used; a
        mapping of the network's arguments and labels, likewise; or batches, such as a DataLoader, of which so many
        are kept that they have ``points``.

        run: its name in the table. every: measure every so many calls; None: as often as measuring takes at most a
        tenth of the training time, from the second measurement on. layers, metrics, options: as for
        :func:`equisep.measure`. to: a .csv or .jsonl file, written after each measurement, that ``equisep.load_runs``
        and ``equisep figure law source=FILE`` read. Other runs of the file stay, and of this run the epochs before the
        first one measured here: a resumed training continues its table. wandb_run: what ``wandb.init`` returned; r, ρ
        and D of each layer are logged, with the epoch. Raises ValueError for bad arguments, also for a network that
        two points of the sample cannot be measured with.

        In a distributed training rank 0 measures and the other ranks go on: call it where they wait for each other
        anyway, such as at the end of an epoch. Weights that are sharded over processes are refused.
        """
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"every={every!r}: must be an integer, at least 1, or None")
        if points is not None and (not isinstance(points, int) or isinstance(points, bool) or points < 2):
            raise ValueError(f"points={points!r}: must be an integer, at least 2, or None for all")
        self.to = None if to is None else Path(to)
        if self.to is not None and self.to.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"to={to}: must end with .csv or .jsonl")
        self.network, self.run, self.every, self.wandb_run = network, run, every, wandb_run
        self.options: dict[str, Any] = {"layers": layers, "metrics": metrics, "progress": False, **options}
        self.sample = _fixed(sample, points, self.options.get("batch_size", 100), self.options.get("label_key"))
        self.measurements: dict[int, NetworkMeasurement] = {}
        self._values: dict[int, dict[str, Any]] = {}
        if self.to is not None:
            _refuse_unwritable(self.to)
            self._stored(self.to)
        if network is not None:
            self._try(network)
        self.seconds = self.training_seconds = 0.0
        self._calls, self._last, self._unmeasured = 0, time.perf_counter(), math.inf

    def __call__(self, epoch: int, **values: Any) -> NetworkMeasurement | None:
        """Measure if it is time to; return the measurement, or None.

        epoch: the number of completed epochs or steps. values: further columns of the table, such as loss and accuracy.
        Raises ValueError for an epoch that was measured before, a value with the name of another column, and sharded
        weights. Features that are not finite are a warning, and no measurement.
        """
        if not isinstance(epoch, Integral):
            raise ValueError(f"epoch={epoch!r}: must be an integer, the number of completed epochs or steps")
        taken = next((name for name in COLUMNS if name in values), None)
        if taken is not None:
            raise ValueError(f"{taken}: is a column of the table; give the value another name")
        if self.network is None:
            raise ValueError("network: is None; set the callback's network before it is called")
        if not self._calls and _is_sharded(self.network):
            raise ValueError("network: its weights are sharded over processes; measure a copy that holds all of them")
        now = time.perf_counter()
        self.training_seconds += now - self._last
        self._unmeasured += now - self._last
        self._calls += 1
        result = self._measure(self.network, int(epoch), values) if self._is_due() else None
        self._last = time.perf_counter()
        return result

    @property
    def share(self) -> float:
        """The time spent on measuring, as a share of that between the calls."""
        return self.seconds / self.training_seconds if self.training_seconds else math.nan

    def to_frame(self) -> pd.DataFrame:
        """Return a row per measured epoch and layer: run, epoch, layer, name, D, further metrics and values."""
        import pandas as pd

        rows = [
            {"run": self.run, "epoch": epoch, "layer": place, "name": layer.name}
            | {"D" if name == "fuzziness" else name: value for name, value in layer.metrics.items()}
            | self._values[epoch]
            for epoch, measured in self.measurements.items()
            for place, layer in enumerate(measured.layers)
        ]
        return pd.DataFrame(rows)

    def _start(self, epoch: int) -> None:
        """Measure before the first step of a training that is not this loop's own, or resume after what was measured.

        Raises ValueError for a training that starts before it.
        """
        last = max(self.measurements, default=-1)
        if epoch < last:
            raise ValueError(f"epoch {last} was measured in another training; this one needs a callback of its own")
        self._last = time.perf_counter()
        if epoch > last:
            self(epoch)

    def _is_due(self) -> bool:
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return False
        if self.every is not None:
            return (self._calls - 1) % self.every == 0
        mean = self.seconds / max(len(self.measurements), 1)
        return mean <= BUDGET * self._unmeasured

    def _try(self, network: nn.Module) -> None:
        """Measure two points of two classes, so that what is wrong is said before training."""
        unknown = [name for name in _as_names(self.options["metrics"]) if name not in METRICS]
        if unknown:
            raise ValueError(f"metrics: {unknown[0]!r}; choose from {', '.join(METRICS)}")
        try:
            measure(network, _of_two_classes(self.sample), **self.options | {"metrics": "fuzziness"})
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"network: fails on the sample: {str(error).splitlines()[0]}") from error

    def _measure(self, network: nn.Module, epoch: int, values: dict[str, Any]) -> NetworkMeasurement | None:
        if epoch in self.measurements:
            raise ValueError(f"epoch={epoch}: was measured before; another training needs a callback of its own")
        start = time.perf_counter()
        try:
            measured = measure(network, self.sample, **self.options)
        except NotFinite as error:
            # A training that diverges is the user's to stop.
            warnings.warn(f"epoch {epoch} is not measured: {error}", stacklevel=3)
            return None
        plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in values.items()}
        self.measurements[epoch], self._values[epoch] = measured, plain
        if self.to is not None:
            self._write(self.to)
        self._log(epoch, _logged(measured), plain)
        self.seconds += time.perf_counter() - start
        self._unmeasured = 0.0
        return measured

    def _log(self, epoch: int, logged: Mapping[str, float], values: Mapping[str, Any]) -> None:
        """Log a measurement. logged: r, decay_ratio and D by layer."""
        if self.wandb_run is not None:
            self.wandb_run.log({"epoch": epoch, **values, **logged})

    def _stored(self, path: Path) -> pd.DataFrame | None:
        """Return the rows of the file that stay: other runs, and this one before it was measured here."""
        if not path.exists():
            return None
        import pandas as pd

        try:
            table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise ValueError(f"to={path}: cannot be read ({reason}); choose another file") from None
        if not {"run", "epoch", "D"} <= set(table) or not pd.api.types.is_numeric_dtype(table["epoch"]):
            raise ValueError(f"to={path}: is no table of runs; choose another file")
        first = min(self.measurements, default=math.inf)
        return table[(table["run"].map(str) != self.run) | (table["epoch"] < first)]

    def _write(self, path: Path) -> None:
        import pandas as pd

        table, stored = self.to_frame(), self._stored(path)
        if stored is not None and len(stored):
            table = pd.concat([stored, table], ignore_index=True)
        lines = table.to_json(orient="records", lines=True) if path.suffix == ".jsonl" else table.to_csv(index=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, str(lines).encode())


def _fixed(sample: Any, points: int | None, batch_size: int, label_key: str | None) -> Any:
    """Return the sample as :func:`equisep.measure` takes it, with at most so many points where it is no batches."""
    if isinstance(sample, Mapping):
        rows = {name: torch.split(torch.as_tensor(values)[:points], batch_size) for name, values in sample.items()}
        batches = [dict(zip(rows, parts, strict=True)) for parts in zip(*rows.values(), strict=True)]
        Batches(batches, batch_size, torch.device("cpu"), label_key).labels()
        return batches
    if isinstance(sample, tuple | list) and len(sample) == 2 and all(map(_is_plain, sample)):
        return tuple(torch.as_tensor(part)[:points] for part in sample)
    kept, count = [], 0
    for batch in Batches(sample, batch_size, torch.device("cpu"), label_key):
        kept.append(batch.whole)
        count += len(batch)
        if points is not None and count >= points:
            break
    return kept


def _of_two_classes(sample: Any) -> Any:
    """Return two points of a pair of tensors, one of each of two classes; or batches up to a second class."""
    if isinstance(sample, tuple):
        inputs, labels = sample
        other = torch.nonzero(labels.ravel() != labels.ravel()[:1]).ravel()[:1]
        return (
            (inputs[[0, int(other)]], labels[[0, int(other)]]) if len(other) and len(inputs) == len(labels) else sample
        )
    for count in range(1, len(sample)):
        labels = torch.cat([batch.labels for batch in Batches(sample[:count], 1, torch.device("cpu"))])
        if len(torch.unique(labels)) > 1:
            return sample[:count]
    return sample


def _refuse_unwritable(path: Path) -> None:
    """Raise ValueError if a file cannot be written to a path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"to={path}: cannot be written ({error.strerror}); choose another folder") from None


def _as_names(metrics: str | Sequence[str]) -> Sequence[str]:
    return [metrics] if isinstance(metrics, str) else metrics


def _is_plain(part: Any) -> bool:
    """Whether a part of a pair is a tensor, an array or a list of numbers."""
    try:
        return torch.as_tensor(part).ndim > 0
    except (TypeError, ValueError, RuntimeError):
        return False


def _is_sharded(network: nn.Module) -> bool:
    """Whether a process holds a part of the weights: by FSDP, tensor parallelism or DeepSpeed's ZeRO-3."""
    names = {type(part).__name__ for part in (*network.modules(), *network.parameters())}
    return bool(names & {"FullyShardedDataParallel", "DTensor"}) or any(
        hasattr(parameter, "ds_id") for parameter in network.parameters()
    )


def _logged(measured: NetworkMeasurement) -> dict[str, float]:
    """Return r, decay_ratio and D by layer, the first two where there is a law."""
    values = {f"D/{layer.name}": layer.metrics.get("fuzziness", math.nan) for layer in measured.layers}
    try:
        law = measured.law
    except ValueError:
        # A layer without a logarithm of D.
        return values
    return values | {"r": law.pearson_r, "decay_ratio": law.decay_ratio}
