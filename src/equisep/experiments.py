"""An experiment file of conf/ as the list of runs it asks for, and those runs in the store as tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from equisep import schema
from equisep.run import final_record
from equisep.runs import PROTOCOL, Run, all_runs, science_id
from equisep.schema import Config, ConfigError, conf_folder

RUN_COLUMNS = (
    "run",
    "seed",
    "r",
    "decay_ratio",
    "half_life",
    "D_first",
    "D_last",
    "train_accuracy",
    "test_accuracy",
    "seconds",
)


@dataclass(frozen=True)
class Point:
    """One run of an experiment: the values of what varies, by name, and the whole config."""

    varied: dict[str, str]
    config: Config


@dataclass(frozen=True)
class Tables:
    """An experiment's runs as found in the store.

    runs: a row per finished run: what varies, then RUN_COLUMNS. layers: a row per run and layer: run, layer, D
    (training set, last epoch). missing: points without a finished, measured run. without_law: a line for
    each run that diverged or whose D has no logarithm; its row holds NaN.
    """

    runs: pd.DataFrame
    layers: pd.DataFrame
    missing: tuple[Point, ...]
    without_law: tuple[str, ...]

    def fuzziness(self, run: str) -> list[float]:
        """Return D of each layer of a run, the input first."""
        rows = self.layers[self.layers["run"] == run].sort_values("layer")
        return [float(value) for value in rows["D"]]

    def save(self, results: Path, name: str) -> list[Path]:
        """Write results/tables/NAME.csv and NAME_layers.csv and return their paths."""
        folder = results / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.csv", folder / f"{name}_layers.csv"]
        for path, table in zip(paths, (self.runs, self.layers), strict=True):
            table.to_csv(path, index=False)
        return paths


def expand_experiment(name: str, overrides: Sequence[str] = ()) -> list[Point]:
    """Return the runs that ``python -m equisep -m experiment=NAME OVERRIDES…`` asks for, in the sweep's order.

    Raises ConfigError, or Hydra's error, where one of them cannot be composed.
    """
    schema.register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        whole = compose("config", [f"experiment={name}"], return_hydra_config=True)
        grid = [f"{key}={values}" for key, values in (whole.hydra.sweeper.params or {}).items()]
        choices: dict[str, list[str]] = {}
        varied: list[str] = []
        for override in OverridesParser.create().parse_overrides([*grid, *overrides]):
            key = override.get_key_element()
            if override.is_sweep_override():
                choices[key] = list(override.sweep_string_iterator())
                varied.append(key)
            else:
                choices[key] = [override.get_value_element_as_str()]
        points = []
        for values in itertools.product(*choices.values()):
            chosen = dict(zip(choices, values, strict=True))
            composed = compose("config", [f"experiment={name}", *(f"{key}={value}" for key, value in chosen.items())])
            names = {key.split(".")[-1]: chosen[key] for key in varied if key != "seed"}
            points.append(Point(names, schema.typed(composed)))
    return points


def collect_tables(points: Sequence[Point]) -> Tables:
    """Return the finished runs of an experiment as tables; what is not in the store is listed, never trained.

    Raises DamagedRun for a run whose files cannot be read, ConfigError where the store holds one of the
    runs asked for on two data sets.
    """
    runs, layers, missing, without_law = [], [], [], []
    for point, run in zip(points, _find_runs(points), strict=True):
        if run is None or not run.finished:
            missing.append(point)
            continue
        train, test = (final_record(run, point.config, split) for split in ("train", "test"))
        law = train.law() if train else None
        if train is None and run.state()["state"] == "done":
            missing.append(point)
            continue
        if train is None or law is None:
            without_law.append(f"run {run.id} {run.state()['state']}" + (", D of a layer is 0" if train else ""))
        figures = (
            run.id,
            point.config.seed,
            law.pearson_r if law else math.nan,
            law.decay_ratio if law else math.nan,
            law.half_life if law else math.nan,
            train.fuzziness[0] if train else math.nan,
            train.fuzziness[-1] if train else math.nan,
            train.accuracy if train else math.nan,
            test.accuracy if test else math.nan,
            run.state()["seconds"],
        )
        runs.append(point.varied | dict(zip(RUN_COLUMNS, figures, strict=True)))
        if train:
            layers += [{"run": run.id, "layer": layer, "D": value} for layer, value in enumerate(train.fuzziness)]
    varied = list(points[0].varied) if points else []
    return Tables(
        pd.DataFrame(runs, columns=[*varied, *RUN_COLUMNS]),
        pd.DataFrame(layers, columns=["run", "layer", "D"]),
        tuple(missing),
        tuple(without_law),
    )


def _find_runs(points: Sequence[Point]) -> list[Run | None]:
    """Return each point's run in the store under the present protocol, or None."""
    wanted = {(point.config.results, science_id(point.config)) for point in points}
    found: dict[tuple[str, str], Run] = {}
    for results in {point.config.results for point in points}:
        for run in all_runs(Path(results)):
            config = run.config()
            key = (results, config["science"])
            if key not in wanted or config["protocol"] != PROTOCOL:
                continue
            if key in found:
                raise ConfigError(f"runs {found[key].id} and {run.id} differ in their data alone: remove one of them")
            found[key] = run
    return [found.get((point.config.results, science_id(point.config))) for point in points]
