"""The callback of Lightning, in real trainings: what it measures, when, and where it goes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import equisep
from equisep import load_laws, load_runs
from tests.callbacks.test_loop import make_network, make_sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger

    from equisep.callbacks.lightning import SeparationCallback


class Classifier(pl.LightningModule):
    """A network and its loss, as users of Lightning write it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_network()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.net(inputs)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("layer", 1.0)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, callback: Any, epochs: int = 4, **options: Any) -> Classifier:
    """Return a network trained by Lightning, in three steps an epoch."""
    torch.manual_seed(5)
    module = Classifier()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*make_sample()), batch_size=30)
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=CSVLogger(folder),
            callbacks=[callback] if callback else [],
            log_every_n_steps=1,
            **silent,
            **options,
        )
        trainer.fit(module, loader)
    return module


def test_it_measures_after_epochs_and_leaves_the_training_as_it_was(tmp_path: Path) -> None:
    callback = SeparationCallback(make_sample(), every=2, run="lit", to=tmp_path / "lit.csv", network="net")
    module = train(tmp_path, callback)
    assert sorted(callback.measurements) == [0, 2, 4]
    expected = equisep.measure(module.net, make_sample(), metrics="fuzziness")
    assert callback.measurements[4].fuzziness == expected.fuzziness
    without = train(tmp_path, None)
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in module.state_dict().items())
    runs = load_runs(tmp_path / "lit.csv")
    assert runs.query("epoch == 0")["train_loss"].isna().all()
    # The loss of the epoch that has just ended; a metric with the name of a column is left out.
    losses = runs.query("epoch > 0").groupby("epoch")["train_loss"].first()
    assert losses[4] < losses[2]
    assert set(runs["layer"]) == {0, 1, 2}
    assert len(load_laws(tmp_path / "lit.csv")) == 3


def test_it_logs_to_the_loggers_of_the_trainer(tmp_path: Path) -> None:
    callback = SeparationCallback(make_sample(), at="step", every=4)
    train(tmp_path, callback, epochs=3)
    # The trained network is measured in any case.
    assert sorted(callback.measurements) == [0, 4, 8, 9]
    logged = pd.read_csv(next(tmp_path.rglob("metrics.csv"))).dropna(subset=["r"]).set_index("step")
    assert list(logged.index) == [0, 4, 8, 9]
    assert logged["r"][8] == pytest.approx(callback.measurements[8].law.pearson_r)
    assert logged["D/net.2"][8] == pytest.approx(callback.measurements[8].fuzziness[1])


def test_steps_of_several_batches_count_once(tmp_path: Path) -> None:
    callback = SeparationCallback(make_sample(), at="step", every=1)
    train(tmp_path, callback, epochs=2, accumulate_grad_batches=3)
    assert sorted(callback.measurements) == [0, 1, 2]


def test_it_measures_in_the_type_of_the_network(tmp_path: Path) -> None:
    callback = SeparationCallback(make_sample(), every=1)
    train(tmp_path, callback, epochs=1, precision="64-true")
    assert sorted(callback.measurements) == [0, 1]


def test_another_training_needs_another_callback(tmp_path: Path) -> None:
    callback = SeparationCallback(make_sample(), every=1)
    train(tmp_path, callback, epochs=1)
    with pytest.raises(ValueError, match="epoch 1 was measured in another training; this one needs a callback"):
        train(tmp_path, callback, epochs=1)


def test_what_is_wrong_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at='batch': choose epoch or step"):
        SeparationCallback(make_sample(), at="batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="network=encoder: no module of Classifier; it has net"):
        train(tmp_path, SeparationCallback(make_sample(), network="encoder"))
