"""D of every layer during one's own training loop: on a fixed sample, every so often, to a table or to wandb."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equisep.callbacks.sample import fixed_sample, two_classes
from equisep.callbacks.table import RunTable
from equisep.measurement import METRICS, NetworkMeasurement, measure
from equisep.measures import Layers, NotFinite

if TYPE_CHECKING:
    import pandas as pd

# Share of the training time that measuring may take where nothing else is said.
BUDGET = 0.1
# Points of the sample that are measured by default.
POINTS = 1000
# Names that values of the user's cannot have: columns of the tables of runs and laws.
IDENTITY = ("run", "epoch", "layer", "name", "measure", "split", "convention")
OF_LAWS = ("r", "decay_ratio", "half_life", "residual", "curvature", "D_first", "D_last")
TAKEN = (*IDENTITY, "D", "NC1", "ratio", "rank", "state", "flaw", *OF_LAWS, *METRICS)


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
        prefix: str = "",
        **options: Any,
    ) -> None:
        """network: in training, on any device; None where it is made later and set as ``network`` before any call.

        sample: (inputs, labels), or a mapping of the network's arguments and labels, of which ``points`` are measured,
        in equal steps; or batches, such as a DataLoader, of which so many are kept that they have ``points``.
        run: its name in the table. every: measure at the first call and at epochs that are multiples of it; None: as
        often as measuring takes at most a tenth of the training time, from the second measurement on.
        layers, metrics, options: as for :func:`equisep.measure`; D is among the metrics.
        to: a .csv or .jsonl file, written after each measurement, that ``equisep.load_runs`` and ``equisep figure law
        source=FILE`` read. Other runs of the file stay, and of this run the epochs before the first one measured here:
        a resumed training continues its table.
        wandb_run: what ``wandb.init`` returned; r, ρ and D of each layer are logged, with the epoch. prefix: of the
        logged names, such as ``test/``.

        Raises ValueError for bad arguments, also for a network that two points of the sample cannot be measured with.
        In a distributed training rank 0 measures and the other ranks go on: call it where they wait for each other
        anyway, such as at the end of an epoch. Weights that are sharded over processes are refused.
        """
        if not isinstance(run, str) or not run:
            raise ValueError(f"run={run!r}: must be a name")
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"every={every!r}: must be an integer, at least 1, or None")
        if points is not None and (not isinstance(points, int) or isinstance(points, bool) or points < 2):
            raise ValueError(f"points={points!r}: must be an integer, at least 2, or None for all")
        if wandb_run is not None and not callable(getattr(wandb_run, "log", None)):
            raise ValueError(f"wandb_run={wandb_run!r}: must be what wandb.init returned")
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise ValueError(f"metrics: {unknown[0]!r}; choose from {', '.join(METRICS)}")
        if "fuzziness" not in names:
            raise ValueError("metrics: must have fuzziness, which is D, among them")
        foreign = [name for name in options if name not in inspect.signature(measure).parameters]
        if foreign:
            raise TypeError(f"{foreign[0]}: is no argument of the callback or of equisep.measure")
        self.table = None if to is None else RunTable(to)
        self.network, self.run, self.every, self.wandb_run, self.prefix = network, run, every, wandb_run, prefix
        self.options: dict[str, Any] = {"layers": layers, "metrics": names, "progress": False, **options}
        self.sample = fixed_sample(sample, points, options.get("batch_size", 100), options.get("label_key"))
        self.measurements: dict[int, NetworkMeasurement] = {}
        self._values: dict[int, dict[str, Any]] = {}
        self._due = False
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
        plain = {name: _single(name, value) for name, value in values.items()}
        if self.network is None:
            raise ValueError("network: is None; set the callback's network before it is called")
        if not self._calls:
            _refuse_sharded(self.network)
        now = time.perf_counter()
        self.training_seconds += now - self._last
        self._unmeasured += now - self._last
        self._calls += 1
        result = self._measure(self.network, int(epoch), plain) if self._is_due(int(epoch)) else None
        self._last = time.perf_counter()
        return result

    def finish(self, epoch: int, **values: Any) -> NetworkMeasurement | None:
        """Measure the trained network at the end, whether it is time to or not; return the measurement.

        epoch, values: as of a call. None if this epoch was measured, and on other ranks than 0.
        """
        if epoch in self.measurements:
            return None
        self._due = True
        try:
            return self(epoch, **values)
        finally:
            self._due = False

    @property
    def share(self) -> float:
        """The time spent on measuring, as a share of that between the calls."""
        return self.seconds / self.training_seconds if self.training_seconds else math.nan

    def to_frame(self) -> pd.DataFrame:
        """Return a row per measured epoch and layer: run, epoch, layer, name, D, further metrics and values."""
        import pandas as pd

        return pd.DataFrame(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"run": self.run, "epoch": epoch, "layer": place, "name": layer.name}
            | {"D" if name == "fuzziness" else name: value for name, value in layer.metrics.items()}
            | self._values[epoch]
            for epoch, measured in self.measurements.items()
            for place, layer in enumerate(measured.layers)
        ]

    def _start(self, epoch: int) -> None:
        """Measure before the first step of a training that is not this loop's own; go on where it is resumed.

        Raises ValueError for a training that starts before what was measured.
        """
        last = max(self.measurements, default=-1)
        if epoch < last:
            raise ValueError(f"epoch {last} was measured in another training; this one needs a callback of its own")
        assert self.network is not None
        self._try(self.network)
        self._last = time.perf_counter()
        measured = epoch == last or (epoch > 0 and self.table is not None and epoch in self.table.epochs(self.run))
        if not measured:
            self(epoch)

    def _is_due(self, epoch: int) -> bool:
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return False
        if self._due:
            return True
        if self.every is not None:
            return not self.measurements or epoch % self.every == 0
        mean = self.seconds / max(len(self.measurements), 1)
        return mean <= BUDGET * self._unmeasured

    def _try(self, network: nn.Module) -> None:
        """Measure two points of two classes, so that what is wrong is said before training."""
        _refuse_sharded(network)
        few = two_classes(self.sample, self.options.get("label_key"))
        try:
            measure(network, few, **self.options | {"metrics": "fuzziness"})
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError, TypeError) as error:
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
        if not self.measurements:
            for warning in measured.warnings:
                # In a training loop it is.
                if not warning.startswith("the network was in training mode"):
                    warnings.warn(warning, stacklevel=3)
        self.measurements[epoch], self._values[epoch] = measured, values
        self._write()
        self._log(epoch, {f"{self.prefix}{name}": value for name, value in _logged(measured).items()}, values)
        self.seconds += time.perf_counter() - start
        self._unmeasured = 0.0
        return measured

    def _write(self) -> None:
        if self.table is None:
            return
        try:
            self.table.write(self.run, self._rows())
        except (OSError, ValueError) as error:
            # The next measurement writes these rows too.
            warnings.warn(f"{self.table.path} is not written: {error}", stacklevel=4)

    def _log(self, epoch: int, logged: Mapping[str, float], values: Mapping[str, Any]) -> None:
        """Log a measurement. logged: r, decay_ratio and D by layer."""
        if self.wandb_run is not None:
            self.wandb_run.log({"epoch": epoch, **values, **logged})


def _single(name: str, value: Any) -> Any:
    """Return a value as a column has it; raises ValueError for several numbers, and for the name of another column."""
    if name in TAKEN:
        raise ValueError(f"{name}: is a column of the table; give the value another name")
    if isinstance(value, Tensor) or hasattr(value, "item"):
        if getattr(value, "size", 1) != 1 and torch.as_tensor(value).numel() != 1:
            raise ValueError(f"{name}: must be one number, not {tuple(value.shape)}")
        return value.item()
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{name}: must be a number or text, not {type(value).__name__}")
    return value


def _refuse_sharded(network: Any) -> None:
    """Raise ValueError where a process has a part of the weights: by FSDP, tensor parallelism or DeepSpeed's ZeRO-3."""
    if not isinstance(network, nn.Module):
        raise ValueError(f"network: {type(network).__name__} is no torch module")
    names = {type(part).__name__ for part in (*network.modules(), *network.parameters())}
    if names & {"FullyShardedDataParallel", "DTensor"} or any(hasattr(part, "ds_id") for part in network.parameters()):
        raise ValueError("network: its weights are sharded over processes; measure a copy that holds all of them")


def submodule(network: nn.Module, name: str) -> nn.Module:
    """Return a module by its name, the network itself for an empty one; raises ValueError for an unknown one."""
    if not isinstance(name, str):
        raise ValueError(f"network: must be the name of a module, not a {type(name).__name__}")
    try:
        return network.get_submodule(name)
    except AttributeError:
        known = ", ".join(child for child, _ in network.named_children()) or "none"
        raise ValueError(f"network={name}: no module of {type(network).__name__}; it has {known}") from None


def _logged(measured: NetworkMeasurement) -> dict[str, float]:
    """Return r, decay_ratio and D by layer, the first two where there is a law."""
    values = {f"D/{layer.name}": layer.metrics["fuzziness"] for layer in measured.layers}
    try:
        law = measured.law
    except ValueError:
        # A layer without a logarithm of D.
        return values
    return values | {"r": law.pearson_r, "decay_ratio": law.decay_ratio}
