"""D of every layer while transformers trains a network: ``Trainer(callbacks=[SeparationCallback(sample)])``."""

from __future__ import annotations

import math
from typing import Any, Literal

try:
    from transformers import TrainerCallback
except ModuleNotFoundError:
    raise ModuleNotFoundError("equisep.callbacks.transformers needs transformers: pip install transformers") from None

from equisep.callbacks import loop


class SeparationCallback(loop.SeparationCallback, TrainerCallback):  # type: ignore[misc]
    """Measures the network when the Trainer starts and after epochs or steps.

    The loss that it logs at that step, or else the last one before, is a column of the table.

    Attributes and methods as of :class:`equisep.SeparationCallback`.
    """

    def __init__(
        self, sample: Any, *, network: str = "", at: Literal["epoch", "step"] = "epoch", **options: Any
    ) -> None:
        """sample: as for :class:`equisep.SeparationCallback`, such as a tokenizer's output with ``labels``.

        network: the name of the measured module in the model, such as ``bert``; by default the model. at: whether calls
        are ends of epochs or of optimizer steps, of which ``every`` counts; a partial last epoch is one, too.
        options: as for :class:`equisep.SeparationCallback`; with ``wandb_run=wandb.run`` the Trainer's own run of
        wandb. Raises ValueError for bad arguments.
        """
        if at not in ("epoch", "step"):
            raise ValueError(f"at={at!r}: choose epoch or step")
        super().__init__(None, sample, **options)
        self.name, self.at = network, at
        self._step = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the network and measure it before the first step."""
        self.network = loop.submodule(kwargs["model"], self.name)
        self._start(self._number(state))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after an epoch, if it is time to."""
        if self.at == "epoch":
            self._call(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after a step, if it is time to."""
        if self.at == "step":
            self._call(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the trained network."""
        self.finish(self._number(state), **self._losses(state))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take the loss of the step that was measured last, which the Trainer logs after its hooks."""
        number = max(self.measurements, default=None)
        if logs and "loss" in logs and number is not None and self._step == state.global_step:
            self._values[number]["loss"] = logs["loss"]
            self._write()

    def _number(self, state: Any) -> int:
        # A partial last epoch counts as one.
        return math.ceil((state.epoch or 0) - 1e-9) if self.at == "epoch" else int(state.global_step)

    def _call(self, state: Any) -> None:
        if self(self._number(state), **self._losses(state)) is not None:
            self._step = state.global_step

    @staticmethod
    def _losses(state: Any) -> dict[str, float]:
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        return {"loss": losses[-1]} if losses else {}
