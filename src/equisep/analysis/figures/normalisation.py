"""The law with batch normalisation, layer normalisation and none, at the best learning rate of each."""

import pandas as pd

from equisep.analysis.figures.panels import LAWS, law_grid
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.tables import Tables

BATCH_NORM = "fnn"


def statistics(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by network without batch normalisation, depth and seed what it loses against the one with it.

    cv_gain: its log_ratio_cv minus that with batch normalisation; r_gain: its r minus that with batch normalisation,
    positive if the law is less exact without. train_accuracy: of both, the lower one.
    """
    last = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    normalised, others = last[last["architecture"] == BATCH_NORM], last[last["architecture"] != BATCH_NORM]
    both = others.merge(normalised, on=["depth", "seed"], suffixes=("", "_normalised"))
    return both.assign(
        cv_gain=both["log_ratio_cv"] - both["log_ratio_cv_normalised"],
        r_gain=both["r"] - both["r_normalised"],
        train_accuracy=both[["train_accuracy", "train_accuracy_normalised"]].min(axis=1),
    )


REPRODUCTION = Reproduction(
    "normalisation",
    lambda parts: law_grid(parts, "depth", "architecture"),
    f"At the best learning rate of each network. {LAWS}",
    ("architecture", "depth"),
    statistics,
)
