"""Statistics that are reported beside the verdict and not judged: one row per condition.

How unequal the layers' ratios are over seeds, the law without the input, its rivals on the increments of log D, and the
law of the test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from equisep.analysis.claims import name_value
from equisep.analysis.rival_laws import MIN_POINTS, compare_increment_laws
from equisep.analysis.statistics import layer_effects
from equisep.analysis.tables import Tables
from equisep.measures import Law, fit_law

SEVERAL = 2
# Difference of AICc from which one description is better (Burnham & Anderson, 2002).
CLEAR = 2


def describe_conditions(tables: Tables, rows: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return a row per condition of networks with a law at the last epoch; NaN where a statistic does not exist.

    networks: their number. mean_log_ratio, layer_deviation, relative_deviation, p_equal_ratios: see LayerEffects.
    r_without_input, decay_ratio_without_input: medians of the law without layer 0. quadratic_advantage,
    floor_advantage: medians of AICc of the law less that of the rival on increments, positive where the rival describes
    them better, from 8 points on. r_test, decay_ratio_test: medians of the law on the test set.
    """
    last = rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]
    columns = [*conditions, "view"]
    described = []
    for key, group in last.groupby(columns, sort=False, dropna=False):
        curves = [curve for curve in tables.curves(group) if all(0 < value < math.inf for value in curve)]
        facts = dict(zip(columns, key, strict=True)) | {"networks": len(curves)}
        described.append(facts | _describe(curves) | group[["r_test", "decay_ratio_test"]].median().to_dict())
    return pd.DataFrame(described)


def _describe(curves: Sequence[Sequence[float]]) -> dict[str, float]:
    names = ("mean_log_ratio", "layer_deviation", "relative_deviation", "p_equal_ratios")
    values = dict.fromkeys(names, math.nan)
    same = len({len(curve) for curve in curves}) == 1
    if same and len(curves) >= SEVERAL and len(curves[0]) > SEVERAL:
        effects = layer_effects(np.diff(np.log(curves), axis=1))
        found = (effects.mean, effects.layer_deviation, effects.relative_deviation, effects.p_value)
        values = dict(zip(names, found, strict=True))
    laws: list[Law] = [fit_law(curve[1:]) for curve in curves if len(curve) > SEVERAL]
    rivals = [compare_increment_laws(curve) for curve in curves if len(curve) >= MIN_POINTS]
    return values | {
        "r_without_input": _median([law.pearson_r for law in laws]),
        "decay_ratio_without_input": _median([law.decay_ratio for law in laws]),
        "quadratic_advantage": _median([laws.exponential - laws.quadratic for laws in rivals]),
        "floor_advantage": _median([laws.exponential - laws.floor for laws in rivals]),
    }


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def describe_course(tables: Tables, rows: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the course of the law over epochs: per condition and measured epoch, medians over networks.

    Columns: the conditions, view, epoch, networks, r, decay_ratio, D_last.
    """
    columns = [*conditions, "view"]
    names = tables.course.merge(rows[["run", *columns]].drop_duplicates(), on=["run", "view"])
    grouped = names.groupby([*columns, "epoch"], sort=False, dropna=False)
    return grouped.agg(
        networks=("run", "nunique"),
        r=("r", "median"),
        decay_ratio=("decay_ratio", "median"),
        D_last=("D_last", "median"),
    ).reset_index()


def summarise(described: pd.DataFrame, conditions: Sequence[str]) -> list[str]:
    """Return notes on the table of :func:`describe_conditions`, each the range over conditions."""
    if described.empty:
        return []
    notes = []
    deviations = described.dropna(subset=["relative_deviation"])
    if len(deviations):
        rejected = int((deviations["p_equal_ratios"] <= 0.05).sum())
        notes.append(
            f"The layers' systematic deviation from one ratio over |mean log ρ| is "
            f"{_range(deviations, 'relative_deviation', conditions)}; equal ratios are rejected (F test, 5 %) in "
            f"{rejected} of {len(deviations)} conditions."
        )
    if described["r_without_input"].notna().any():
        notes.append(f"Without the input, r is {_range(described, 'r_without_input', conditions)}.")
    rivals = described.dropna(subset=["quadratic_advantage"])
    if len(rivals):
        better = {name: int((rivals[f"{name}_advantage"] > CLEAR).sum()) for name in ("quadratic", "floor")}
        notes.append(
            f"On the increments of log D, AICc prefers by more than {CLEAR} a quadratic to the law in "
            f"{better['quadratic']} and an exponential that levels off in {better['floor']} of {len(rivals)} "
            "conditions (medians over networks; from 8 points on)."
        )
    if described["r_test"].notna().any():
        notes.append(
            f"On the test set r is {_range(described, 'r_test', conditions)}, "
            f"ρ {_range(described, 'decay_ratio_test', conditions)}."
        )
    return notes


def _range(table: pd.DataFrame, column: str, conditions: Sequence[str]) -> str:
    """Return the least and the largest value of a column with their conditions."""
    ordered = table.dropna(subset=[column]).sort_values(column).to_dict("records")
    texts = []
    for row in ordered[:1] + ordered[1:][-1:]:
        where = ", ".join(name_value(name, row[name]) for name in conditions)
        texts.append(f"{row[column]:.4g}".replace("-", "−") + (f" ({where})" if where else ""))
    return " to ".join(texts)
