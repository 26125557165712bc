"""Networks under perturbation: accuracy and D against strength, and against how equal the ratios are."""

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equisep.analysis.figures.panels import place_legend, say_not_run, wide_figure
from equisep.analysis.reproduction import FITTED, Reproduction
from equisep.analysis.statistics import interval_over_seeds, partial_rank_correlation, rank_correlation
from equisep.analysis.tables import Tables
from equisep.measures import fit_law, normalized_auc

STRENGTHS = {
    "weights": "noise on all weights,\nrelative to each layer's norm",
    "input_noise": "noise on the images,\nstandard deviation",
    "corruptions": "corruption of the images,\nseverity",
    "fgsm": "adversarial images (FGSM),\nradius",
    "pgd": "adversarial images (PGD),\nradius",
}
# Below five layers a rank correlation over a network's layers says nothing.
FEWEST_LAYERS = 5
CONTROLS = ("depth", "train_loss")
SCORES = (
    *("run", "depth", "learning_rate", "seed", "train_loss", "train_accuracy", "log_ratio_cv", "separation"),
    *(f"area_{kind}" for kind in STRENGTHS),
    *("rise", "layer_sensitivity", "layer_sensitivity_at_equal_place"),
)


def score_networks(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per network: what it is, how equal its ratios are, how much perturbations do to it.

    area_KIND: under test accuracy against strength, relative to the unperturbed network, 1 where nothing is lost;
    rise: of log D of the last layer under noise on all weights, mean over strengths; layer_sensitivity: rank
    correlation over layers of the change of log D of the last layer under noise on one of them with that layer's
    ratio; layer_sensitivity_at_equal_place: with the layer's place held fixed; separation: log D of the last layer
    less that of the input.
    """
    found = []
    by_run = dict(list(tables.perturbed.groupby("run", sort=False)))
    for row in rows.to_dict("records"):
        fuzziness = tables.fuzziness(row["run"], row["view"], row["epoch"])
        cells = by_run.get(row["run"])
        if cells is None or not fuzziness or min(fuzziness) <= 0:
            continue
        facts = {name: row[name] for name in ("run", "depth", "learning_rate", "seed", "train_loss", "train_accuracy")}
        facts["log_ratio_cv"] = fit_law(fuzziness).log_ratio_cv
        facts["separation"] = math.log(fuzziness[-1] / fuzziness[0])
        clean = cells[cells["kind"] == "clean"].iloc[0]
        for kind, curve in cells[cells["layer"].isna() & (cells["kind"] != "clean")].groupby("kind"):
            strengths = [0.0, *curve["strength"]]
            accuracy = normalized_auc(strengths, [clean["test_accuracy"], *curve["test_accuracy"]])
            facts[f"area_{kind}"] = accuracy / clean["test_accuracy"]
            if kind == "weights":
                rises = np.log(curve["D_last"] / clean["D_last"])
                facts["rise"] = normalized_auc(strengths, [0.0, *rises])
        layers = layer_sensitivities(cells, fuzziness)
        if len(layers) >= FEWEST_LAYERS:
            facts["layer_sensitivity"] = rank_correlation(layers["ratio"], layers["change"])
            facts["layer_sensitivity_at_equal_place"] = partial_rank_correlation(
                layers["ratio"], layers["change"], [layers["layer"]]
            )
        found.append(facts)
    return pd.DataFrame(found).reindex(columns=list(SCORES)).infer_objects()


def tabulate_scores(tables: Tables, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table of scores, a row a network."""
    return {"_scores": score_networks(tables, rows)}


def layer_sensitivities(cells: pd.DataFrame, fuzziness: list[float]) -> pd.DataFrame:
    """Return the ratio of each hidden layer, and how much noise on it alone changes log D of the last one."""
    ratios = fit_law(fuzziness).layer_ratios
    changes = cells[cells["kind"] == "one_layer"].groupby("layer")["change"].mean()
    layers = [layer for layer in range(1, len(ratios) + 1) if layer in changes.index]
    return pd.DataFrame(
        {
            "layer": layers,
            "ratio": [ratios[layer - 1] for layer in layers],
            "change": [changes[layer] for layer in layers],
        }
    )


def correlate(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Return by seed the claim's statistics: partial rank correlations over networks, and the median within them."""
    found = []
    for seed, group in score_networks(tables, rows).groupby("seed"):
        controls = [group[name] for name in CONTROLS]
        unequal = group["log_ratio_cv"]
        found.append(
            {
                "seed": seed,
                "correlation_with_log_ratio_cv": partial_rank_correlation(unequal, group["area_weights"], controls),
                "fuzziness_with_log_ratio_cv": partial_rank_correlation(unequal, group["rise"], controls),
                "layer_sensitivity_with_ratio": group["layer_sensitivity"].median(),
            }
        )
    return pd.DataFrame(found)


def remark(tables: Tables, rows: pd.DataFrame) -> list[str]:
    """Return what else a reader should know: other kinds, other things held fixed."""
    scores = score_networks(tables, rows)
    told = [
        f"{len(scores)} networks; Spearman's correlations, depth and training loss held fixed, a seed at a time; the "
        "intervals are over seeds of the same networks, not over other networks.",
        "Bands: the middle four fifths of the networks that fit; hollow: networks that do not.",
    ]
    others: list[tuple[str, str, tuple[str, ...]]] = [
        (f"accuracy under {kind.replace('_', ' ')}", f"area_{kind}", CONTROLS) for kind in STRENGTHS
    ]
    for name, further in (("separation", "separation"), ("rate", "learning_rate")):
        others.append((f"accuracy under weights, at equal {name} too", "area_weights", (*CONTROLS, further)))
    parts = []
    for name, score, controls in others:
        values = [
            partial_rank_correlation(group["log_ratio_cv"], group[score], [group[control] for control in controls])
            for _, group in scores.groupby("seed")
        ]
        if values and np.isfinite(values).all():
            parts.append(f"{name} {_tell(values)}")
    told += [f"Inequality of ratios against {'; '.join(parts)}."] if parts else []
    within = []
    for depth, group in scores.groupby("depth"):
        value = partial_rank_correlation(group["log_ratio_cv"], group["area_weights"], [group["train_loss"]])
        within += [f"{value:.2f} at {depth}".replace("-", "−")] if math.isfinite(value) else []
    told += [f"Accuracy under weights within one depth, all seeds: {', '.join(within)}."] if within else []
    whole = scores["layer_sensitivity"].notna()
    at_place = scores["layer_sensitivity_at_equal_place"].dropna()
    if len(at_place):
        told.append(
            f"Sensitivity to a layer against its ratio: {whole.sum()} networks with {FEWEST_LAYERS} hidden layers or "
            f"more; with the layer's place held fixed, median {at_place.median():.2f} of {len(at_place)} "
            "(of the others place tells the ratio).".replace("-", "−")
        )
    return told


def _tell(values: object) -> str:
    interval = interval_over_seeds(values)  # type: ignore[arg-type]
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("-", "−")


def draw(tables: Tables, rows: pd.DataFrame) -> Figure:
    """Return the figure: curves against strength of the networks that fit, then what inequality goes with."""
    scores = score_networks(tables, rows)
    figure = wide_figure(7.8)
    panels = figure.subplots(3, 3)
    if scores.empty:
        for axes in panels.flat:
            say_not_run(axes)
        return figure
    facts = scores[["run", "depth", "train_accuracy"]].rename(columns={"train_accuracy": "fit"})
    curves = _with_unperturbed(tables.perturbed).merge(facts[facts["fit"] >= FITTED], on="run")
    places = (panels[0, 1], panels[1, 0], panels[1, 1], panels[1, 2], panels[2, 0])
    _curve(panels[0, 0], curves[curves["kind"] == "weights"], "weights", "D_last", legend=True)
    panels[0, 0].set(yscale="log", ylabel="D of the last layer")
    for axes, kind in zip(places, STRENGTHS, strict=True):
        _curve(axes, curves[curves["kind"] == kind], kind, "test_accuracy")
        axes.set(ylabel="test accuracy", ylim=(0, None))
    _scatter(panels[0, 2], scores, "log_ratio_cv", "area_weights")
    panels[0, 2].set(xlabel="inequality of the ratios", ylabel="accuracy area, noisy weights")
    _scatter(panels[2, 1], scores, "log_ratio_cv", "rise")
    panels[2, 1].set(xlabel="inequality of the ratios", ylabel="rise of log D, noisy weights")
    _layers(panels[2, 2], tables, rows)
    for axes in panels.flat:
        axes.xaxis.label.set_size("small")
        axes.yaxis.label.set_size("small")
    return figure


def _with_unperturbed(perturbed: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of each kind, with the unperturbed network at strength 0."""
    clean = perturbed[perturbed["kind"] == "clean"]
    whole = perturbed[perturbed["layer"].isna() & (perturbed["kind"] != "clean")]
    return pd.concat([whole, *(clean.assign(kind=kind) for kind in dict.fromkeys(whole["kind"]))])


def _curve(axes: Axes, rows: pd.DataFrame, kind: str, y: str, *, legend: bool = False) -> None:
    """Draw medians over networks against strength, by depth, with the middle four fifths of the networks as a band."""
    if rows.empty:
        say_not_run(axes)
    else:
        sns.lineplot(
            rows,
            x="strength",
            y=y,
            hue="depth",
            style="depth",
            palette="colorblind",
            markers=True,
            dashes=False,
            markersize=4,
            estimator="median",
            errorbar=("pi", 80),
            legend="full" if legend else False,
            ax=axes,
        )
        if legend:
            place_legend(axes, "lower right", title="depth")
    axes.set_xlabel(STRENGTHS[kind])


def _scatter(axes: Axes, scores: pd.DataFrame, x: str, y: str) -> None:
    """Draw a point a network, by depth; those that do not fit their data hollow."""
    if y not in scores or scores[y].isna().all():
        say_not_run(axes)
        return
    palette = dict(zip(sorted(set(scores["depth"])), sns.color_palette("colorblind"), strict=False))
    for (depth, fits), group in scores.groupby(["depth", scores["train_accuracy"] >= FITTED]):
        face = palette[depth] if fits else "none"
        axes.scatter(group[x], group[y], s=14, facecolors=face, edgecolors=palette[depth], linewidths=0.8, alpha=0.8)


def _layers(axes: Axes, tables: Tables, rows: pd.DataFrame) -> None:
    """Draw for every hidden layer of every network that fits how much noise on it changes D, against its ratio."""
    by_run = dict(list(tables.perturbed.groupby("run", sort=False)))
    palette = dict(zip(sorted(set(rows["depth"])), sns.color_palette("colorblind"), strict=False))
    for row in rows[rows["train_accuracy"] >= FITTED].to_dict("records"):
        fuzziness = tables.fuzziness(row["run"], row["view"], row["epoch"])
        if row["run"] in by_run and min(fuzziness) > 0:
            layers = layer_sensitivities(by_run[row["run"]], fuzziness)
            axes.plot(layers["ratio"], layers["change"], ".", markersize=3, alpha=0.5, color=palette[row["depth"]])
    axes.set(yscale="log", xlabel="ratio ρ of a layer", ylabel="change of log D, noisy layer")


REPRODUCTION = Reproduction(
    "robustness", draw, ("depth", "learning_rate"), correlate, remarks=remark, more=tabulate_scores
)
