"""A sweep that is killed five times; ``python -m benchmarks.kills`` does it fifty times and more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.kills import Campaign
from equisep.data import Data

SWEEP = (
    *("-m", "training=smoke", "training.epochs=24", "training.snapshots=[0,4,8,12,16,20]", "architecture.depth=4"),
    *("optimizer=adam", "seed=1,2", "tracking=offline"),
    *("compute.checkpoint_every=2", "compute.checkpoint_seconds=0"),
    *("architecture.width=20", "measure.test_epochs=[]"),
)


@pytest.mark.slow
def test_a_sweep_that_is_killed_five_times_ends_as_an_undisturbed_one(tmp_path: Path, fashion: Data) -> None:
    campaign = Campaign(tmp_path, random.Random(1), SWEEP, workers=False)
    campaign.run(5)
    assert campaign.differences == [], campaign.report()
    assert campaign.struck.total() >= 5
    assert {"snapshots", "metrics.jsonl", "measures", "state", "wandb logs"} <= campaign.compared.keys()
