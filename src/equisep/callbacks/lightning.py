"""D of every layer while Lightning trains a network: ``Trainer(callbacks=[SeparationCallback(sample)])``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    try:
        from pytorch_lightning import Callback
    except ModuleNotFoundError:
        raise ModuleNotFoundError("equisep.callbacks.lightning needs lightning: pip install lightning") from None

from equisep.callbacks import loop


class SeparationCallback(loop.SeparationCallback, Callback):  # type: ignore[misc]
    """Measures the network when Lightning's training starts and after epochs or steps; logs to the trainer's loggers.

    Attributes and methods as of :class:`equisep.SeparationCallback`.
    """

    def __init__(
        self, sample: Any, *, network: str = "", at: Literal["epoch", "step"] = "epoch", **options: Any
    ) -> None:
        """sample, options: as for :class:`equisep.SeparationCallback`.

        network: the name of the measured module in the LightningModule, such as ``encoder``; by default the latter, by
        its ``forward``. at: whether calls are ends of epochs or of steps, of which ``every`` counts.
        Numbers that the module logs become columns of the table. Raises ValueError for bad arguments.
        """
        if at not in ("epoch", "step"):
            raise ValueError(f"at={at!r}: choose epoch or step")
        super().__init__(None, sample, **options)
        self.name, self.at = network, at
        self._trainer: Any = None
        self._step = 0
        self._told: set[str] = set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the network and measure it before the first step."""
        self.network = loop.submodule(pl_module, self.name)
        self._trainer, self._step = trainer, trainer.global_step
        # With bf16-true and the like the network takes inputs of its own type.
        self.sample = trainer.precision_plugin.convert_input(self.sample)
        self._start(trainer.current_epoch if self.at == "epoch" else trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure after an epoch, if it is time to."""
        if self.at == "epoch":
            self(trainer.current_epoch + 1, **self._values_of())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure after a step, if it is time to."""
        # With accumulated gradients several batches are a step.
        if self.at == "step" and trainer.global_step != self._step:
            self._step = trainer.global_step
            self(self._step, **self._values_of())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the trained network."""
        # The epoch that was trained last is counted by now.
        self.finish(trainer.current_epoch if self.at == "epoch" else trainer.global_step, **self._values_of())

    def _values_of(self) -> dict[str, Any]:
        """Return the numbers that the module has logged, but for those with the name of a column."""
        metrics = {name: torch.as_tensor(value) for name, value in self._trainer.callback_metrics.items()}
        values = {name: value.item() for name, value in metrics.items() if value.numel() == 1}
        for name in set(values) & set(loop.TAKEN) - self._told:
            self._told.add(name)
            warnings.warn(f"{name}: logged by the module, is another column of the table and left out", stacklevel=3)
        return {name: value for name, value in values.items() if name not in loop.TAKEN}

    def _log(self, epoch: int, logged: Mapping[str, float], values: Mapping[str, Any]) -> None:
        """Log a measurement to the trainer's loggers, which have the other values already."""
        for logger in self._trainer.loggers:
            logger.log_metrics(dict(logged), step=self._trainer.global_step)
        super()._log(epoch, logged, values)
