"""One run in the terminal: its configuration, D per layer, the law, and the figure's path."""

from pathlib import Path

import pandas as pd

from equisep.config import ConfigError, Measure, convention_of, measure_id
from equisep.measures import LayerRecord
from equisep.store import Run, find_run, run_title


def show(results: Path, word: str, *, epoch: int | None = None, split: str = "train") -> None:
    """Print the law of a run at a measured epoch, for every measure of the run, and draw it.

    word: the run's id, its beginning, or "last". epoch: the last measured one by default. Raises ConfigError.
    """
    run = find_run(results, word)
    config, state = run.config(), run.state()["state"]
    epochs, first = len(run.epochs()), measure_id(Measure(**config["measure"]))
    lines = [f"run {run.id}: {run_title(config)}; {state}, epoch {epochs} of {config['training']['epochs']}"]
    measures = run.load_measures()
    if not measures:
        raise ConfigError(f"run {run.id}: nothing is measured yet; run the same command again to continue it")
    for identity, measurement in sorted(measures.items(), key=lambda pair: pair[0] != first):
        records = {record.epoch: record for record in measurement.records if record.split == split}
        chosen = max(records, default=0) if epoch is None else epoch
        if chosen not in records:
            measured = ", ".join(map(str, records)) or "none"
            measured += f"; the run diverged after epoch {epochs}" if state == "diverged" else ""
            raise ConfigError(f"--epoch {chosen}: not measured on the {split} set; choose one of {measured}")
        settings = ", ".join(f"{name}={value}" for name, value in measurement.settings.items() if value is not None)
        name = convention_of(measurement.settings)
        facts = f"{split} set, epoch {chosen}; measured: {sorted(records)}"
        lines += ["", f"{name}, measure {identity} ({settings}); {facts}"]
        lines.append(describe(records[chosen]))
        both = [record for record in measurement.records if record.epoch == chosen]
        lines.append(", ".join(map(_accuracy, both)) + " (evaluation mode)")
        lines.append(f"figure: {draw(run, records[chosen], identity)}")
    print("\n".join(lines))


def describe(record: LayerRecord) -> str:
    """Return D, ratio and rank of each layer, then the law, as lines."""
    previous = [float("nan"), *record.fuzziness[:-1]]
    ratios = [value / last if last else float("nan") for value, last in zip(record.fuzziness, previous, strict=True)]
    columns = {"layer": range(len(ratios)), "name": record.layers, "D": record.fuzziness}
    table = pd.DataFrame(columns | {"ratio": ratios, "rank": record.rank})
    lines = [table.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="")]
    law = record.law()
    if law is None:
        lines.append("no law: D of a layer is 0 or not finite")
    else:
        lines += [
            f"r = {law.pearson_r:.4f}, decay ratio ρ = {law.decay_ratio:.4f}, half-life {law.half_life:.2f} layers",
            f"residual {law.relative_residual:.3f}, curvature {law.relative_curvature:.3f} (of the fall of log D)",
        ]
    return "\n".join(lines)


def _accuracy(record: LayerRecord) -> str:
    split = "training" if record.split == "train" else "test"
    return f"{split} accuracy {record.accuracy:.4f}, {split} loss {record.loss:.4g} nats"


def draw(run: Run, record: LayerRecord, measure: str) -> Path:
    """Draw log D against layer with the law into the run's folder, and return the figure's path.

    measure: its id. The figure of the run's own measure after the last epoch, on the training set, is law.png.
    """
    from equisep.plots import layer_plot

    config = run.config()
    own = measure == measure_id(Measure(**config["measure"]))
    last = record.epoch == config["training"]["epochs"] and record.split == "train"
    place = "" if last else f"_{record.split}_epoch_{record.epoch:04d}"
    path = run.path / f"law{'' if own else f'_{measure}'}{place}.png"
    split = "training" if record.split == "train" else "test"
    layer_plot(record.fuzziness, f"run {run.id[:8]}, measure {measure}\n{split} set, epoch {record.epoch}").savefig(
        path
    )
    return path
