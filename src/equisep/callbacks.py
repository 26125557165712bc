"""D of every layer during one's own training loop: on a fixed sample, every so often, to a table or to wandb."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equisep.files import write_atomically
from equisep.measurement import NetworkMeasurement, measure
from equisep.measures import Layers

if TYPE_CHECKING:
    import pandas as pd

# Share of the training time that measuring may take where nothing else is said.
BUDGET = 0.1
# Points of the sample that are measured by default.
POINTS = 1000


class SeparationCallback:
    """Measures a network on a fixed sample when it is called in a training loop; the network is left as it was.

    measurements: of each measured epoch. seconds, training_seconds: spent on measuring, and between the calls.
    """

    def __init__(
        self,
        network: nn.Module,
        sample: tuple[Any, Any],
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
        """network: in training, on any device. sample: (inputs, labels), of which the first ``points`` are used.

        run: its name in the table. every: measure every so many calls; None: as often as measuring takes at most a
        tenth of the training time, from the second measurement on. layers, metrics, options: as for
        :func:`equisep.measure`. to: a .csv or .jsonl file, written after each measurement, that ``equisep.load_runs``
        and ``equisep figure law source=FILE`` read; another run of the file stays. wandb_run: what ``wandb.init``
        returned; r, ρ and D of each layer are logged, with the epoch. Raises ValueError for bad arguments.

        In a distributed training rank 0 measures and the other ranks go on: call it where they wait for each other
        anyway, such as at the end of an epoch.
        """
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"every={every!r}: must be an integer, at least 1, or None")
        if points is not None and (not isinstance(points, int) or isinstance(points, bool) or points < 2):
            raise ValueError(f"points={points!r}: must be an integer, at least 2, or None for all")
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise ValueError(f"sample: must be a pair of inputs and labels, not {type(sample).__name__}")
        self.to = None if to is None else Path(to)
        if self.to is not None and self.to.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"to={to}: must end with .csv or .jsonl")
        self.network, self.run, self.every, self.wandb_run = network, run, every, wandb_run
        self.sample: tuple[Tensor, Tensor] = tuple(torch.as_tensor(part)[:points] for part in sample)  # type: ignore[assignment]
        self.options: dict[str, Any] = {"layers": layers, "metrics": metrics, "progress": False, **options}
        self.measurements: dict[int, NetworkMeasurement] = {}
        self._values: dict[int, dict[str, Any]] = {}
        self._earlier = self._other_runs()
        self.seconds = self.training_seconds = 0.0
        self._calls, self._last, self._unmeasured = 0, time.perf_counter(), math.inf

    def __call__(self, epoch: int, **values: Any) -> NetworkMeasurement | None:
        """Measure if it is time to; return the measurement, or None.

        epoch: the number of completed epochs or steps. values: further columns of the table, such as loss and accuracy.
        """
        now = time.perf_counter()
        self.training_seconds += now - self._last
        self._unmeasured += now - self._last
        self._calls += 1
        result = self._measure(epoch, values) if self._is_due() else None
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

    def _is_due(self) -> bool:
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return False
        if self.every is not None:
            return (self._calls - 1) % self.every == 0
        mean = self.seconds / max(len(self.measurements), 1)
        return mean <= BUDGET * self._unmeasured

    def _measure(self, epoch: int, values: dict[str, Any]) -> NetworkMeasurement:
        start = time.perf_counter()
        measured = measure(self.network, self.sample, **self.options)
        self.measurements[epoch], self._values[epoch] = measured, values
        if self.to is not None:
            self._write(self.to)
        if self.wandb_run is not None:
            self._log(epoch, measured, values)
        self.seconds += time.perf_counter() - start
        self._unmeasured = 0.0
        return measured

    def _other_runs(self) -> pd.DataFrame | None:
        """Return the rows of other runs that are in the file already."""
        if self.to is None or not self.to.exists():
            return None
        import pandas as pd

        try:
            table = pd.read_csv(self.to) if self.to.suffix == ".csv" else pd.read_json(self.to, lines=True)
        except ValueError as error:
            raise ValueError(
                f"to={self.to}: cannot be read ({str(error).splitlines()[0]}); choose another file"
            ) from None
        if "run" not in table or "D" not in table:
            raise ValueError(f"to={self.to}: is no table of runs; choose another file")
        return table[table["run"].map(str) != self.run]

    def _write(self, path: Path) -> None:
        import pandas as pd

        table = self.to_frame()
        if self._earlier is not None and len(self._earlier):
            table = pd.concat([self._earlier, table], ignore_index=True)
        lines = table.to_json(orient="records", lines=True) if path.suffix == ".jsonl" else table.to_csv(index=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, str(lines).encode())

    def _log(self, epoch: int, measured: NetworkMeasurement, values: dict[str, Any]) -> None:
        logged: dict[str, Any] = {"epoch": epoch, **values}
        for layer in measured.layers:
            logged |= {f"D/{layer.name}": layer.metrics.get("fuzziness", math.nan)}
        try:
            law = measured.law
            logged |= {"r": law.pearson_r, "decay_ratio": law.decay_ratio}
        except ValueError:
            # A layer without a logarithm of D.
            pass
        self.wandb_run.log(logged)
