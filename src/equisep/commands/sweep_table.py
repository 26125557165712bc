"""The end of a sweep: a row per setting, with means over seeds and their intervals."""

from collections.abc import Mapping, Sequence
from itertools import chain

from equisep.analysis.statistics import Interval, interval_over_seeds

# Rows printed; a sweep of hundreds of settings is for equisep.load_laws.
MAX_ROWS = 40
COLUMNS = {"r": "r", "decay_ratio": "ρ", "train_accuracy": "training accuracy", "test_accuracy": "test accuracy"}


def sweep_table(overrides: Sequence[Sequence[str]], outcomes: Sequence[Mapping[str, object]]) -> str:
    """Return a table of the settings of a sweep: n, r, ρ and accuracies, as means over seeds with 95 % intervals.

    overrides: of each job. outcomes: plain values of each (store.Outcome.facts). Accuracies are in evaluation mode at
    the last epoch. '' for fewer than two jobs.
    """
    if len(outcomes) < 2:
        return ""
    shared = set.intersection(*map(set, overrides))
    settings = [
        " ".join(word.lstrip("+") for word in words if word not in shared and not word.startswith("seed="))
        for words in overrides
    ]
    rows: list[dict[str, object]] = []
    groups: dict[str, list[Mapping[str, object]]] = {}
    for setting, outcome in zip(settings, outcomes, strict=True):
        groups.setdefault(setting, []).append(outcome)
    for setting, members in list(groups.items())[:MAX_ROWS]:
        row: dict[str, object] = {"setting": setting or "(all)", "n": f"{len(members):2}"}
        for name, label in COLUMNS.items():
            values = [float(str(member[name])) for member in members if name in member]
            row[label] = (
                _describe(interval_over_seeds(values, correlations=name == "r"), len(members)) if values else ""
            )
        diverged = sum(member["state"] == "diverged" for member in members)
        unfitted = sum("r" not in member and member["state"] != "diverged" for member in members)
        notes = [f"{count} {what}" for count, what in ((diverged, "diverged"), (unfitted, "without a law")) if count]
        rows.append(row | ({"note": ", ".join(notes)} if notes else {}))
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    cells = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = "\n".join(" ".join(map(str.rjust, line, widths)) for line in cells)
    measured = ", ".join(dict.fromkeys(str(outcome["convention"]) for outcome in outcomes if "convention" in outcome))
    under = f"; r and ρ are measured as {measured}" if measured else ""
    more = f"\nand {len(groups) - MAX_ROWS} more settings: equisep status" if len(groups) > MAX_ROWS else ""
    return f"mean over n seeds [95 % interval, Student's t], after the last epoch{under}\n{table}{more}"


def _describe(interval: Interval, members: int) -> str:
    """Return mean and interval, and the number of values where some members have none."""
    text = f"{interval.mean:.4f}" + (f" [{interval.low:.4f}, {interval.high:.4f}]" if interval.n > 1 else "")
    return text.replace("-", "−") + (f" (n = {interval.n})" if interval.n < members else "")
