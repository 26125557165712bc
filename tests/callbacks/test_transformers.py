"""The callback of transformers' Trainer, in real trainings of a small BERT."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

# Nothing is fetched.
os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import equisep
from equisep import load_runs
from equisep.callbacks.transformers import SeparationCallback


def make_texts(count: int = 48, length: int = 8) -> dict[str, torch.Tensor]:
    """Return texts of three classes, each with a token of its own among others, the ends of some padded."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    ids = torch.randint(10, 40, (count, length), generator=generator)
    ids[:, 1] = labels + 1
    mask = torch.ones_like(ids)
    mask[::2, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(folder: Path, callback: Any, epochs: int = 4, max_steps: int = -1) -> BertForSequenceClassification:
    """Return a network trained by the Trainer, in three steps an epoch."""
    torch.manual_seed(1)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    network = BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=3, max_position_embeddings=8, **size))
    texts = make_texts()
    rows = [{name: values[place] for name, values in texts.items()} for place in range(48)]
    arguments = TrainingArguments(
        str(folder / "trainer"),
        per_device_train_batch_size=16,
        num_train_epochs=epochs,
        max_steps=max_steps,
        learning_rate=1e-2,
        report_to=[],
        logging_steps=3,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    trainer = Trainer(network, arguments, train_dataset=rows, callbacks=[callback] if callback else [])
    trainer.train()
    network.history = trainer.state.log_history
    return network


def test_it_measures_the_blocks_after_epochs_and_leaves_the_training_as_it_was(tmp_path: Path) -> None:
    texts = make_texts()
    callback = SeparationCallback(texts, every=2, run="bert", to=tmp_path / "bert.jsonl", pooling="mean")
    network = train(tmp_path, callback)
    assert sorted(callback.measurements) == [0, 2, 4]
    expected = equisep.measure(network, [texts], metrics="fuzziness", pooling="mean")
    assert callback.measurements[4].fuzziness == pytest.approx(expected.fuzziness)
    assert network.training
    without = train(tmp_path, None)
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in network.state_dict().items())
    runs = load_runs(tmp_path / "bert.jsonl")
    assert runs["name"].unique().tolist() == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    # Logged after the first epoch and after the third, when the next measurements are taken.
    assert runs.query("epoch == 0")["loss"].isna().all()
    assert runs.query("epoch > 0")["loss"].notna().all()


def test_it_measures_after_steps(tmp_path: Path) -> None:
    callback = SeparationCallback(make_texts(), at="step", every=5)
    train(tmp_path, callback)
    # The trained network is measured in any case.
    assert sorted(callback.measurements) == [0, 5, 10, 12]


def test_a_training_may_end_within_an_epoch(tmp_path: Path) -> None:
    callback = SeparationCallback(make_texts(), every=1)
    train(tmp_path, callback, max_steps=4)
    assert sorted(callback.measurements) == [0, 1, 2]


def test_the_loss_is_that_of_the_same_epoch(tmp_path: Path) -> None:
    """The Trainer logs it after its hooks."""
    callback = SeparationCallback(make_texts(), every=1, network="bert", pooling="mean")
    history = train(tmp_path, callback, epochs=3).history
    losses = callback.to_frame().groupby("epoch")["loss"].first()
    assert losses.loc[1:].tolist() == [entry["loss"] for entry in history if "loss" in entry]


def test_what_is_wrong_is_said_before_training() -> None:
    with pytest.raises(ValueError, match="at='batch': choose epoch or step"):
        SeparationCallback(make_texts(), at="batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch 0 has no labels under labels"):
        SeparationCallback({"input_ids": torch.zeros(4, 3)})
