"""Every number of docs/findings.md, from the reference tables."""

from __future__ import annotations

import json
import re
from functools import cache

import pandas as pd
import pytest
import yaml

from equisep.analysis.rival_laws import compare_laws
from equisep.analysis.statistics import Interval, interval_over_seeds
from equisep.analysis.tables import at_best_learning_rate
from tests.conftest import ROOT

REFERENCE = ROOT / "results/reference"


@cache
def page() -> str:
    return " ".join((ROOT / "docs/findings.md").read_text().split())


@cache
def table(name: str, *conditions: str) -> pd.DataFrame:
    """Return an experiment's runs, at the best learning rate of each condition if any are given."""
    runs = pd.read_csv(REFERENCE / name / f"{name}.csv")
    return at_best_learning_rate(runs, conditions) if conditions else runs


def described(rows: pd.DataFrame, column: str, digits: int = 3) -> str:
    """Return mean and interval as the page writes them."""
    found = interval_over_seeds(rows[column], correlations=column == "r")
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]".replace("-", "−")


# Experiment and, for those shown at their best rate, its conditions; selection of rows; column; digits.
NUMBERS = [
    *(
        (
            ("conventions",),
            f"depth == {depth} and batch_norm == 'running' and order == 'stored' and batch_size == 100",
            "D_last",
            digits,
        )
        for depth, digits in ((4, 2), (8, 3), (20, 3))
    ),
    (
        ("conventions",),
        "depth == 20 and batch_norm == 'batch' and order == 'stored' and batch_size == 1000",
        "D_last",
        3,
    ),
    *(
        (("learning_rate",), f"learning_rate == {rate} and convention == '{convention}'", "r", 3)
        for rate in (0.03, 0.3)
        for convention in ("paper", "evaluation")
    ),
    *(
        (("emergence",), f"depth == {depth} and epoch == {epoch} and convention == 'evaluation'", "r", digits)
        for depth, epoch, digits in ((8, 50, 4), (8, 600, 3))
    ),
    *(
        (("depth_fashion_mnist", "depth"), f"depth == {depth} and convention == '{convention}'", "D_last", 3)
        for depth in (9, 20)
        for convention in ("paper", "evaluation")
    ),
    (
        ("conventions",),
        "depth == 20 and batch_norm == 'batch' and order == 'stratified' and batch_size == 100",
        "D_last",
        3,
    ),
    (("random_labels",), "dataset == 'fashion_mnist_10x10' and depth == 20 and convention == 'paper'", "D_last", 2),
    (
        ("random_labels",),
        "dataset.str.endswith('random_labels') and depth == 20 and convention == 'paper'",
        "D_last",
        2,
    ),
    *(
        (
            ("random_labels",),
            f"dataset.str.endswith('random_labels') and depth == {depth} and convention == 'paper'",
            "r",
            3,
        )
        for depth in (4, 8, 20)
    ),
]


@pytest.mark.parametrize(("source", "selection", "column", "digits"), NUMBERS)
def test_a_number_is_that_of_its_table(source: tuple[str, ...], selection: str, column: str, digits: int) -> None:
    rows = table(*source).query(selection)
    assert rows["seed"].is_unique
    assert described(rows, column, digits) in page()


def paired(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows.set_index("seed")[column]


def test_comparisons_are_paired_by_seed() -> None:
    networks = table("normalisation").query("depth == 12")
    for rate in (1e-4, 1e-3):
        here = networks[networks["learning_rate"] == rate]
        layer = paired(here[here["architecture"] == "fnn_layer_norm"], "log_ratio_cv")
        batch = paired(here[(here["architecture"] == "fnn") & (here["convention"] == "evaluation")], "log_ratio_cv")
        found = interval_over_seeds((layer - batch).to_numpy())
        assert f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]".replace("-", "−") in page()


def test_the_numbers_of_captions_are_those_of_the_captions() -> None:
    """The share of the floor that is predicted, the deviation from equal ratios, and the order of the layers."""
    conventions = (REFERENCE / "conventions/conventions.md").read_text()
    (mean, low, high) = re.findall(r"floor_ratio (\S+) \[(\S+), (\S+)\], n = 10, depth 20", conventions)[0]
    assert (
        f"{float(mean):.0%} [{float(low):.0%}, {float(high):.0%}]".replace("%", " %")
        .replace(" %, ", ", ")
        .replace(" %]", "]")
        in page()
    )
    optimizers = (REFERENCE / "optimizers/optimizers.md").read_text()
    spread = re.findall(r"one ratio over \|mean log ρ\| is (\S+) \(.*?\) to (\S+) \(.*?in (\d of \d)", optimizers)
    texts = [f"{float(low):.2f} to {float(high):.2f}" for low, high, rejected in spread if rejected == "9 of 9"]
    assert len(texts) == 2
    assert all(text in page() for text in texts)
    emergence = (REFERENCE / "emergence/emergence.md").read_text()
    last, middle, first = re.search(r"paper: Depth 20: .*? at epoch (\d+), (\d+), (\d+)", emergence).groups()[::-1]  # type: ignore[union-attr]
    assert f"at epoch {last}, the middle third at {middle}, the first at {first}" in page()
    for depth in (8, 20):
        for convention in ("paper", "evaluation"):
            (interval,) = re.findall(rf"{convention}: Depth {depth}: .*place (\S+ \[\S+ \S+\]), n = 10", emergence)
            assert interval in page()


def test_the_correlations_with_test_accuracy_are_those_of_the_verdict() -> None:
    verdicts = json.loads((REFERENCE / "test_accuracy/test_accuracy.json").read_text())["verdicts"]
    means = []
    for convention, verdict in verdicts.items():
        for found in verdict["findings"]:
            if found["statistic"] != "correlation_with_log_ratio_cv_at_equal_depth_and_rate":
                continue
            mean, low, high = (f"{found[name]:.2f}".replace("-", "−") for name in ("mean", "low", "high"))
            means += [found["mean"]] if convention == "paper" else []
            if convention == "evaluation":
                assert f"{mean} [{low}, {high}]" in page()
                assert f"({found['n']} settings)" in page() or f"({found['n']})" in page()
    assert f"between {min(means):.2f} and {max(means):.2f}".replace("-", "−") in page()


@cache
def judged(name: str) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return the intervals of a verdict by convention, statistic and condition, but for images of 32×32 pixels."""
    verdicts = json.loads((REFERENCE / name / f"{name}.json").read_text())["verdicts"]
    return {
        (convention, found["statistic"], found["condition"].split()[0]): found
        for convention, verdict in verdicts.items()
        for found in verdict["findings"]
        if "32×32" not in found["condition"]
    }


def test_the_rows_over_all_networks_are_those_of_the_verdicts() -> None:
    """In the README and in the table of results."""
    readme = (ROOT / "README.md").read_text()
    prose = yaml.safe_load((REFERENCE / "findings.yaml").read_text())
    names = ("CIFAR-10", "Fashion-MNIST", "MNIST")
    shares = [judged("decay_ratio")["paper", "exponential_share", name] for name in names]
    for share in shares:
        text = f"{share['mean']:.0%} [{100 * share['low']:.0f}, {100 * share['high']:.0f}]".replace("%", " %")
        assert text in prose["decay_ratio"]["finding"]
    first, second, third = (f"{100 * share['mean']:.0f}" for share in shares)
    assert f"in {first} % of the networks on CIFAR-10, {second} and {third} % on Fashion-MNIST and MNIST" in readme
    shares = [100 * judged("decay_ratio")["evaluation", "exponential_share", name]["mean"] for name in names]
    assert (
        f"in evaluation mode in {shares[0]:.1f}, {shares[1]:.0f} and {shares[2]:.0f} %"
        in prose["decay_ratio"]["finding"]
    )
    assert f"in {min(shares):.0f} to {max(shares):.1f} %" in readme
    statistic = "correlation_with_log_ratio_cv_at_equal_depth_and_rate"
    for convention in ("paper", "evaluation"):
        found = [judged("test_accuracy")[convention, statistic, name] for name in names]
        for one in found:
            text = f"{one['mean']:.2f} [{one['low']:.2f}, {one['high']:.2f}]".replace("-", "−")
            assert text in prose["test_accuracy"]["finding"]
        means = sorted(one["mean"] for one in found)
        if convention == "evaluation":
            assert f"by {means[-1]:.2f} to {means[0]:.2f} over settings".replace("-", "−") in readme
    (note,) = re.findall(r"evaluation: Judged: (.*?):", (REFERENCE / "test_accuracy/test_accuracy.md").read_text())
    assert note in readme
    assert f"{prose['test_accuracy']['networks']:,} networks" in note
    (note,) = re.findall(r"evaluation: Judged: (.*?) networks", (REFERENCE / "decay_ratio/decay_ratio.md").read_text())
    assert f"{note} networks, shares" in readme
    assert f"{prose['decay_ratio']['networks']:,}" == note
    caption = (REFERENCE / "test_accuracy/test_accuracy.md").read_text()
    line = next(line for line in caption.splitlines() if line.startswith("evaluation: Correlation of the CV of log ρ"))
    numbers = re.findall(r"(−[\d.]+) \[(−[\d.]+), (−[\d.]+)\]", line)
    assert len(numbers) == 3
    for mean, low, high in numbers:
        text = f"{mean} [{low}, −{abs(float(high[1:])):.2f}]"
        assert text in prose["test_accuracy"]["finding"]


@pytest.mark.parametrize(("name", "condition"), [("resnet_two_layer", "view"), ("vgg13", "dataset")])
def test_the_numbers_of_convolutional_networks_are_those_of_their_tables(name: str, condition: str) -> None:
    """In the README as published, in the table of results under both conventions."""
    finding = yaml.safe_load((REFERENCE / "findings.yaml").read_text())[name]["finding"]
    readme = (ROOT / "README.md").read_text()
    for (value, convention), rows in table(name, condition).groupby([condition, "convention"]):
        text = described(rows, "r")
        assert text in finding, value
        assert convention != "paper" or text in readme, value


def test_the_epochs_at_which_the_line_is_straightest_are_those_of_the_courses() -> None:
    before = {}
    for name, keys in (("optimizers", ["depth", "optimizer"]), ("learning_rate", ["learning_rate"])):
        course = pd.read_csv(REFERENCE / name / f"{name}_course.csv")
        assert course["networks"].nunique() == 1
        for convention, rows in course.groupby("convention"):
            straightest = rows.pivot_table(index=keys, columns="epoch", values="r").idxmin(axis=1)
            before[name, convention] = int((straightest < 600).sum())
    assert f"in {before['optimizers', 'evaluation']} of Figure 1's 9 conditions" in page()
    assert f"and at {before['learning_rate', 'evaluation']} of 7 rates" in page()
    assert f"as published in {before['optimizers', 'paper']} and {before['learning_rate', 'paper']}." in page()


def test_the_intervals_over_depths_are_those_of_the_caption() -> None:
    caption = (REFERENCE / "test_accuracy/test_accuracy.md").read_text()
    told = re.findall(r"evaluation: The same over all settings, intervals over depths drawn again: (.*?)\.\n", caption)
    intervals = re.findall(r"\[(\S+), (\S+)\]", told[0])
    assert len(intervals) == 3
    for low, high in intervals:
        assert f"[{low}, −{abs(float(high[1:])):.2f}]" in page()


def test_the_rises_with_depth_are_those_of_the_verdicts() -> None:
    readme = (ROOT / "README.md").read_text()
    prose = yaml.safe_load((REFERENCE / "findings.yaml").read_text())
    for name in ("depth_fashion_mnist", "depth_mnist", "depth_cifar10"):
        for verdict in json.loads((REFERENCE / name / f"{name}.json").read_text())["verdicts"].values():
            (rise,) = verdict["findings"]
            text = f"{100 * rise['mean']:.0f} % [{100 * rise['low']:.0f}, {100 * rise['high']:.0f}]".replace("-", "−")
            if verdict["verdict"] != "contradicted":
                assert text in readme
                assert text in prose[name]["finding"]


def rise(name: str, convention: str, rate: float) -> Interval:
    """Return the rise to depth 20 over the depth that the other half of the seeds chooses, at one rate."""
    rows = table(name).query(f"convention == '{convention}' and learning_rate == {rate}")
    by_seed = rows.pivot(index="seed", columns="depth", values="D_last")
    halves = by_seed.iloc[::2], by_seed.iloc[1::2]
    rises = [one[20] / one[other.mean().idxmin()] - 1 for one, other in (halves, halves[::-1])]
    return interval_over_seeds(pd.concat(rises).to_numpy())


def test_the_rises_with_depth_at_one_rate_are_those_of_the_tables() -> None:
    prose = yaml.safe_load((REFERENCE / "findings.yaml").read_text())
    rates = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    published, rising = [], {}
    for name in ("depth_fashion_mnist", "depth_mnist", "depth_cifar10"):
        means = [rise(name, "paper", rate) for rate in rates]
        assert min(found.low for found in means) >= 0.1
        published += [found.mean for found in means]
        # The threshold of the claim.
        rising[name] = [rate for rate in rates if rise(name, "evaluation", rate).low >= 0.1]
        text = prose[name]["finding"].replace(",", "")
        for found in (rise(name, "evaluation", rate) for rate in rising[name]):
            assert f"{100 * found.mean:.0f} % [{100 * found.low:.0f} {100 * found.high:.0f}]" in text
    assert rising == {
        "depth_fashion_mnist": [3e-5, 3e-3],
        "depth_mnist": [3e-5],
        "depth_cifar10": [3e-5, 1e-4],
    }
    assert f"by {100 * min(published):.0f} to {100 * max(published):.0f} %" in page()


def test_shares_of_the_exponential_fall_with_depth() -> None:
    text = yaml.safe_load((REFERENCE / "findings.yaml").read_text())["decay_ratio"]["finding"]
    for name in ("depth_cifar10", "depth_fashion_mnist", "depth_mnist"):
        runs = table(name).query("convention == 'evaluation' and train_accuracy >= 0.99").set_index("run")
        layers = pd.read_csv(REFERENCE / name / f"{name}_layers.csv").query("convention == 'evaluation'")
        curves = layers.sort_values("layer").groupby("run")["D"].apply(lambda values: values.to_numpy())
        best = curves[curves.index.isin(runs.index)].map(lambda curve: compare_laws(curve).best == "exponential")
        runs = runs.assign(best=best)
        assert runs[runs["depth"] <= 10]["best"].all()
        deep = interval_over_seeds(runs[runs["depth"] >= 14].groupby("seed")["best"].mean().to_numpy())
        assert f"{deep.mean:.0%} [{100 * deep.low:.0f}, {min(100, 100 * deep.high):.0f}]".replace("%", " %") in text


def test_uniform_widths_bend_the_law_too() -> None:
    """The control of the experiment on shape: uniform widths at the same depth and rate."""
    text = yaml.safe_load((REFERENCE / "findings.yaml").read_text())
    for convention in ("paper", "evaluation"):
        wide = table("width").query(f"width == 1000 and learning_rate == 1e-3 and convention == '{convention}'")
        assert described(wide, "r") in text["shape"]["finding"]
        assert described(wide, "r") in text["width"]["finding"]
    narrow = table("optimizers").query("depth == 8 and optimizer == 'adam' and convention == 'evaluation'")
    assert described(narrow, "r") in text["shape"]["finding"]


def test_draws_of_the_images_are_compared_with_seeds() -> None:
    """Their mean r is equal, and ρ varies more over draws."""
    text = yaml.safe_load((REFERENCE / "findings.yaml").read_text())["subsets"]["finding"]
    draws, seeds = (
        table(name).groupby(["convention", "depth", "optimizer"]).agg({"r": "mean", "decay_ratio": "std"})
        for name in ("subsets", "optimizers")
    )
    assert (draws["r"] - seeds["r"]).abs().max() < 0.005
    ratio = (draws["decay_ratio"] / seeds["decay_ratio"]).groupby("convention").median()
    assert f"to 0.005, while ρ varies {ratio['paper']:.1f} times as much as published" in text
    assert f"{ratio['evaluation']:.1f} times in evaluation mode" in text


def test_the_page_is_short() -> None:
    prose = re.sub(r"!\[.*?\]\(.*?\)", "", page())
    assert len(re.sub(r"[#*`|·]", " ", prose).split()) <= 800
