"""Robustness: accuracy and D of perturbed networks against strength, and against the CV of log ρ (unequal ratios)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.figures.panels import (
    FITTED,
    Part,
    Parts,
    drawn_parts,
    legend_above,
    mark,
    say_not_run,
    title,
)
from equisep.analysis.reproduction import Reproduction
from equisep.analysis.statistics import (
    correlation_interval,
    interval_over_seeds,
    partial_rank_correlation,
    rank_correlation,
)
from equisep.analysis.tables import Tables
from equisep.measures import fit_law, normalized_auc
from equisep.plots import PAGE_WIDTH, depth_look, draw_dots, new_figure, use_log_scale

# Of the perturbations: what is perturbed, and the unit of their strength.
STRENGTHS = {
    "weights": ("noisy weights", "noise, relative to each layer's norm"),
    "input_noise": ("noisy images", "standard deviation"),
    "corruptions": ("corrupted images", "severity"),
    "fgsm": ("adversarial images, FGSM", "radius"),
    "pgd": ("adversarial images, PGD", "radius"),
}
# A rank correlation over fewer layers is meaningless.
MIN_LAYERS = 5
CONTROLS = ("depth", "train_loss")
# The claim's correlations with CV of log ρ, and the scores that they are of.
CORRELATIONS = {"correlation_with_log_ratio_cv": "area_weights", "fuzziness_with_log_ratio_cv": "rise"}
SCORES = (
    *("run", "depth", "learning_rate", "seed", "train_loss", "train_accuracy", "log_ratio_cv", "separation"),
    *(f"area_{kind}" for kind in STRENGTHS),
    *("rise", "layer_sensitivity", "layer_sensitivity_at_equal_place"),
)


def score_networks(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return SCORES, a row per network: its configuration, CV of log ρ and robustness.

    area_KIND: area under test accuracy against strength, relative to the unperturbed network (1: no loss); rise: of log
    D of the last layer under noise on all weights, mean over strengths; layer_sensitivity: rank correlation over layers
    of a layer's ratio with the change of log D of the last layer under noise on that layer alone;
    layer_sensitivity_at_equal_place: the same, controlling for the position of the layer; separation: log D of the last
    layer minus that of the input.
    """
    scores = []
    by_run = dict(list(tables.perturbed.groupby("run", sort=False)))
    for row in rows.to_dict("records"):
        fuzziness = tables.fuzziness(row)
        results = by_run.get(row["run"])
        if results is None or not fuzziness or min(fuzziness) <= 0:
            continue
        facts = {name: row[name] for name in ("run", "depth", "learning_rate", "seed", "train_loss", "train_accuracy")}
        facts["log_ratio_cv"] = fit_law(fuzziness).log_ratio_cv
        facts["separation"] = math.log(fuzziness[-1] / fuzziness[0])
        clean = results[results["kind"] == "clean"].iloc[0]
        for kind, curve in results[results["layer"].isna() & (results["kind"] != "clean")].groupby("kind"):
            strengths = [0.0, *curve["strength"]]
            accuracy = normalized_auc(strengths, [clean["test_accuracy"], *curve["test_accuracy"]])
            facts[f"area_{kind}"] = accuracy / clean["test_accuracy"]
            if kind == "weights":
                rises = np.log(curve["D_last"] / clean["D_last"])
                facts["rise"] = normalized_auc(strengths, [0.0, *rises])
        layers = layer_sensitivities(results, fuzziness)
        if len(layers) >= MIN_LAYERS:
            facts["layer_sensitivity"] = rank_correlation(layers["ratio"], layers["change"])
            partial = partial_rank_correlation(layers["ratio"], layers["change"], [layers["layer"]])
            facts["layer_sensitivity_at_equal_place"] = partial
        scores.append(facts)
    return pd.DataFrame(scores).reindex(columns=list(SCORES)).infer_objects()


def tabulate_scores(tables: Tables, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table of scores, a row per network."""
    return {"_scores": score_networks(tables, rows)}


def layer_sensitivities(results: pd.DataFrame, fuzziness: list[float]) -> pd.DataFrame:
    """Return layer, ratio and change of log D of the last layer under noise on that layer alone, by hidden layer."""
    changes = results[results["kind"] == "one_layer"].groupby("layer")["change"].mean().rename("change")
    ratios = fit_law(fuzziness).layer_ratios
    layers = pd.DataFrame({"layer": range(1, len(ratios) + 1), "ratio": ratios})
    return layers.merge(changes, on="layer")


def correlate(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the claim's statistics in one row, as intervals.

    Partial rank correlations over settings (depth and learning rate), each the mean over its seeds; and the correlation
    within a network, over settings likewise: seeds repeat a setting.
    """
    scores = score_networks(tables, rows)
    if scores.empty:
        return pd.DataFrame(columns=["seeds", *CORRELATIONS, "layer_sensitivity_with_ratio"])
    settings = _over_settings(scores)
    values: dict[str, Any] = {"seeds": scores["seed"].nunique()}
    for name, score in CORRELATIONS.items():
        correlation = _partial_correlation(settings, score)
        values[name] = correlation_interval(correlation, len(settings), len(CONTROLS))
    # Networks of few layers have none.
    within = settings["layer_sensitivity"].dropna().to_list() or [math.nan]
    values["layer_sensitivity_with_ratio"] = interval_over_seeds(within, correlations=True)
    return pd.DataFrame([values])


def _over_settings(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean scores of each setting: seeds repeat a setting and are no further cases."""
    numbers = scores.drop(columns=["run", "seed"])
    return numbers.groupby(["depth", "learning_rate"]).mean().reset_index()


def _partial_correlation(scores: pd.DataFrame, score: str, controls: Sequence[str] = CONTROLS) -> float:
    return partial_rank_correlation(scores["log_ratio_cv"], scores[score], [scores[name] for name in controls])


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return further notes: correlations for other perturbations, and with other controls."""
    scores = score_networks(tables, rows)
    notes = [
        f"{len(scores)} networks in {len(_over_settings(scores))} settings; Spearman's partial correlations over "
        "settings, controlling for depth and training loss; intervals by Fisher's z.",
    ]
    scopes: list[tuple[str, str, tuple[str, ...]]] = [
        (f"accuracy under {kind.replace('_', ' ')}", f"area_{kind}", CONTROLS) for kind in STRENGTHS
    ]
    for name, control in (("separation", "separation"), ("learning rate", "learning_rate")):
        scopes.append((f"accuracy under weights, also controlling for {name}", "area_weights", (*CONTROLS, control)))
    parts = []
    for name, score, controls in scopes:
        settings = _over_settings(scores) if len(scores) else scores
        interval = correlation_interval(_partial_correlation(settings, score, controls), len(settings), len(controls))
        if math.isfinite(interval.mean):
            parts.append(f"{name} {interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("-", "−"))
    notes += [f"CV of log ρ against {'; '.join(parts)}."] if parts else []
    within = []
    for depth, group in scores.groupby("depth"):
        value = _partial_correlation(group, "area_weights", ["train_loss"])
        within += [f"{value:.2f} at depth {depth}".replace("-", "−")] if math.isfinite(value) else []
    if within:
        notes.append(f"CV of log ρ against accuracy under weights, within one depth, all seeds: {', '.join(within)}.")
    partial = scores["layer_sensitivity_at_equal_place"].dropna()
    if len(partial):
        median = f"{partial.median():.2f}".replace("-", "−")
        notes.append(
            f"Sensitivity to a layer against its ratio: {scores['layer_sensitivity'].notna().sum()} networks with "
            f"{MIN_LAYERS} or more hidden layers; controlling for the layer's position: median {median} of "
            f"{len(partial)} (in the others the position determines the ratio)."
        )
    return notes


def draw(parts: Parts) -> Figure:
    """Draw the figure: curves against strength for networks that fit their data, and scores against CV of log ρ."""
    count = len(parts)
    figure = new_figure(PAGE_WIDTH, 100 + 46 * count)
    panels = figure.subplots(2 + count, 3)
    scored = [(look, part, score_networks(part.tables, part.rows)) for look, part in drawn_parts(parts)]
    if not scored or scored[0][2].empty:
        for axes in panels.flat:
            say_not_run(axes)
        return figure
    _, first, scores = scored[0]
    depths = [depth_look(depth) for depth in sorted(set(scores["depth"]))]
    for axes, (kind, (name, unit)) in zip(panels.flat, STRENGTHS.items(), strict=False):
        _curve(axes, _fitted_curves(first.tables, scores, kind), "test_accuracy")
        axes.set(ylabel="test accuracy", ylim=(0, None), xlabel=unit)
        title(axes, list(panels.flat).index(axes), name)
    last, styles = panels[1, 2], ("-", "--")
    for number, (_, part, found) in enumerate(scored):
        _curve(last, _fitted_curves(part.tables, found, "weights"), "D_last", line=styles[number % 2])
    use_log_scale(last)
    last.set(ylabel="D of the last layer", xlabel=STRENGTHS["weights"][1])
    title(last, len(STRENGTHS), STRENGTHS["weights"][0])
    names = [mark(look, linestyle=styles[n % 2], marker="", color="black") for n, (look, _, _) in enumerate(scored)]
    last.legend(handles=names if count > 1 else [], loc="lower right")
    for row, (look, part, found) in enumerate(scored, start=2):
        _scatter(panels[row, 0], found, "area_weights", "accuracy area, noisy weights")
        _scatter(panels[row, 1], found, "rise", "rise of log D, noisy weights")
        _layers(panels[row, 2], part)
        for column, axes in enumerate(panels[row]):
            title(axes, 3 * row + column, look.label, only=look)
    legend_above(figure, depths, {scores["seed"].nunique()})
    return figure


def _fitted_curves(tables: Tables, scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the results of one perturbation for networks that fit their data, with their depth."""
    facts = scores[["run", "depth", "train_accuracy"]].rename(columns={"train_accuracy": "fit"})
    curves = _with_unperturbed(tables.perturbed).merge(facts[facts["fit"] >= FITTED], on="run")
    return curves[curves["kind"] == kind]


def _with_unperturbed(perturbed: pd.DataFrame) -> pd.DataFrame:
    """Return the curve of each perturbation, with the unperturbed network at strength 0."""
    clean = perturbed[perturbed["kind"] == "clean"]
    whole = perturbed[perturbed["layer"].isna() & (perturbed["kind"] != "clean")]
    return pd.concat([whole, *(clean.assign(kind=kind) for kind in dict.fromkeys(whole["kind"]))])


def _curve(axes: Axes, rows: pd.DataFrame, y: str, line: str = "-") -> None:
    """Draw medians over networks against strength, by depth, with bars for the middle 80 % of the networks."""
    if rows.empty:
        say_not_run(axes)
        return
    depths = sorted(set(rows["depth"]))
    for number, depth in enumerate(depths):
        look = depth_look(float(depth))
        marks: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markeredgewidth": 0, "linestyle": line}
        # Beside each other, since bars at one place cannot be told apart.
        shift = rows["strength"].max() * 0.008 * (2 * number - len(depths) + 1)
        group = rows[rows["depth"] == depth].assign(strength=lambda chosen, by=shift: chosen["strength"] + by)
        bars = {"err_style": "bars", "err_kws": {"elinewidth": 0.5}}
        sns.lineplot(group, x="strength", y=y, estimator="median", errorbar=("pi", 80), ax=axes, **bars, **marks)


def _scatter(axes: Axes, scores: pd.DataFrame, y: str, label: str) -> None:
    """Draw a score against CV of log ρ, a point per network coloured by depth; hollow if it does not fit its data."""
    axes.set(xlabel="CV of log ρ", ylabel=label)
    if scores[y].isna().all():
        say_not_run(axes)
        return
    for (depth, fits), group in scores.groupby(["depth", scores["train_accuracy"] >= FITTED]):
        look = depth_look(float(str(depth)))
        faces = {} if fits else {"facecolors": "none", "edgecolors": look.colour, "color": None, "linewidths": 0.5}
        style = {"s": 8, "marker": look.marker, "alpha": 0.8} | faces
        draw_dots(axes, group["log_ratio_cv"], group[y], look, group["run"].tolist(), **style)


def _layers(axes: Axes, part: Part) -> None:
    """Draw the change of log D under noise on one layer against its ratio, for each hidden layer of fitted networks."""
    by_run = dict(list(part.tables.perturbed.groupby("run", sort=False)))
    for row in part.rows[part.rows["train_accuracy"] >= FITTED].to_dict("records"):
        fuzziness = part.tables.fuzziness(row)
        if row["run"] in by_run and min(fuzziness) > 0:
            layers = layer_sensitivities(by_run[row["run"]], fuzziness)
            draw_dots(axes, layers["ratio"], layers["change"], depth_look(row["depth"]), [row["run"]], s=3)
    use_log_scale(axes)
    axes.set(xlabel="ratio ρ of a layer", ylabel="change of log D, noisy layer")


SHOWS = (
    "First six panels: medians over the networks that fit their data, bars for the middle 80 % of them, against the "
    "strength of a perturbation (depths beside each other). Others, under each convention: a network's robustness to "
    "noise on all weights against the CV of log ρ (hollow: networks that do not fit their data), and the change of log "
    "D under noise on one layer against its ratio."
)
REPRODUCTION = Reproduction(
    "robustness",
    draw,
    SHOWS,
    ("depth", "learning_rate"),
    correlate,
    remarks=remark,
    extra_tables=tabulate_scores,
)
