"""The subcommands: their arguments, their help, and what each of them runs.

Nothing heavy is imported before a command runs.
"""

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from equisep.commands import measure
from equisep.config.validation import ConfigError
from equisep.config.vocabulary import group_options, profile_files, refuse_unknown_words

PROFILE = "headline"
FIGURE_OPTIONS = "KEY=VALUE overrides, profile=NAME, source=SOURCE, tables=FOLDER"


@dataclass(frozen=True)
class Command:
    """A subcommand.

    summary: one line; example: of its use; details: for its help, before and (listed) after the arguments; run: takes
    the parsed arguments, returns the exit code.
    """

    summary: str
    example: str
    details: str
    arguments: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], int]
    listed: Callable[[], Sequence[str]] = tuple


def wrap(head: str, options: Sequence[str]) -> list[str]:
    """Return lines of at most 100 characters with a head and options after it."""
    return textwrap.wrap("  ".join(options), 100, initial_indent=head + "  ", subsequent_indent=" " * (len(head) + 2))


def results_of(words: Sequence[str]) -> Path:
    """Return the results folder that words name, results=FOLDER, or the default one."""
    from equisep.config import compose_config

    return Path(compose_config([word for word in words if word.startswith("results=")]).results)


def split_words(words: Sequence[str], *names: str) -> tuple[dict[str, str], list[str]]:
    """Return the words NAME=VALUE of some names as a mapping, and the others; raises ConfigError for a repeated one."""
    own = [word for word in words if word.partition("=")[0] in names and "=" in word]
    options = dict(word.split("=", 1) for word in own)
    if len(options) < len(own):
        repeated = next(name for name in names if sum(word.startswith(f"{name}=") for word in own) > 1)
        raise ConfigError(f"{repeated}=: must be set once")
    return options, [word for word in words if word not in own]


def _words(metavar: str, text: str) -> Callable[[argparse.ArgumentParser], object]:
    return lambda parser: parser.add_argument("words", nargs="*", default=[], metavar=metavar, help=text)


def _reproduce(arguments: argparse.Namespace) -> int:
    from equisep.commands.reproduce import reproduce

    # The profile may be left out: equisep reproduce seed=1.
    alone = "=" in arguments.profile
    words = [arguments.profile, *arguments.words] if alone else arguments.words
    return reproduce(PROFILE if alone else arguments.profile, words)


def _figure_list() -> Sequence[str]:
    from equisep.analysis.claims import OVERVIEW_NAMES

    return (*wrap("figures:", ["law", *OVERVIEW_NAMES, *group_options()["experiment"]]), "")


def _profile_list() -> Sequence[str]:
    return (*wrap("profiles:", list(profile_files())), "")


def _figure(arguments: argparse.Namespace) -> int:
    from equisep.commands.figures import draw, draw_all

    return draw_all(arguments.words) if arguments.name == "all" else draw(arguments.name, arguments.words)


def _show(arguments: argparse.Namespace) -> int:
    from equisep.commands.show import show

    if "=" in arguments.run:
        raise ConfigError(f"show: {arguments.run}: name a run first: its id, the beginning of it, or last")
    show(
        results_of(_only_results("show", arguments.words)), arguments.run, epoch=arguments.epoch, split=arguments.split
    )
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from equisep.commands.report import write

    print(f"report: written: {write(results_of(_only_results('report', arguments.words)))}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from equisep.store import status_table

    plain = [word for word in arguments.words if "=" not in word]
    if plain:
        raise ConfigError(f"status: {plain[0]}: must be KEY=VALUE")
    filters, _ = split_words(arguments.words, *(word.partition("=")[0] for word in arguments.words))
    results = results_of(arguments.words)
    filters.pop("results", None)
    table = status_table(results, filters)
    nothing = f"no runs under {results}/runs" + (" match" if filters else "")
    print(table.to_string(index=False) if len(table) else nothing)
    return 0


def _mirror(arguments: argparse.Namespace) -> int:
    from equisep.config import compose_config
    from equisep.execution import mirror_store
    from equisep.store import find_run

    refuse_unknown_words(arguments.words)
    config = compose_config(arguments.words)
    results = Path(config.results)
    run = None if arguments.run is None else find_run(results, arguments.run)
    count = mirror_store(results, config.tracking, run)
    print(f"mirrored {f'run {run.id}' if run else f'{count} runs'} of {results}")
    return 0


def _dashboard(arguments: argparse.Namespace) -> int:
    from equisep.analysis.dashboards import build_workspace, save_workspace, workspace_json

    workspace = build_workspace(arguments.entity, arguments.project)
    print(workspace_json(workspace) if arguments.json else save_workspace(workspace))
    return 0


def _page(arguments: argparse.Namespace) -> int:
    from equisep.analysis.viewer import write_viewer

    options, others = split_words(arguments.words, "source")
    results = results_of(_only_results("page", others, "source=SOURCE or "))
    path, notes = write_viewer(options.get("source", results), results)
    print(f"page: written: {path}, to open in a browser: {' '.join(notes)}")
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from equisep.commands.new import new_experiment

    print(new_experiment(arguments.name))
    return 0


def _only_results(command: str, words: Sequence[str], others: str = "") -> Sequence[str]:
    unknown = [word for word in words if not word.startswith("results=")]
    if unknown:
        raise ConfigError(f"{command}: {unknown[0]}: unknown argument; use {others}results=FOLDER")
    return words


def _new_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("experiment",), help="what to write: experiment")
    parser.add_argument("name", help="lower-case letters, digits and _")


def _reproduce_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", default=PROFILE, help=f"see below (default: {PROFILE})")
    parser.add_argument(
        "words", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of every run of the profile"
    )


def _figure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="see below, or all; decay_ratio and test_accuracy are over all runs")
    parser.add_argument("words", nargs="*", default=[], metavar="KEY=VALUE", help=FIGURE_OPTIONS)


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="id of a run, its beginning, or 'last'")
    parser.add_argument("words", nargs="*", default=[], metavar="results=FOLDER", help="the store (default: results)")
    parser.add_argument("--epoch", type=int, help="a measured epoch (default: the last one)")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="default: train")


def _mirror_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", default=[], metavar="KEY=VALUE", help="tracking=online, results=FOLDER")
    parser.add_argument("--run", help="id of one run, or its beginning (default: all runs)")


def _dashboard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entity", required=True, help="wandb user or team")
    parser.add_argument("--project", required=True, help="wandb project")
    parser.add_argument("--json", action="store_true", help="print what would be saved, and save nothing")


COMMANDS: dict[str, Command] = {
    "reproduce": Command(
        "Train, draw and judge the experiments of a profile",
        "equisep reproduce headline",
        "Runs that are done are not trained again. Exit code 1 if something could not be run.",
        _reproduce_arguments,
        _reproduce,
        _profile_list,
    ),
    "figure": Command(
        "Draw and judge a figure, or all, from the runs in the store",
        "equisep figure optimizers",
        "law: of any runs, of a table of your own too. "
        "source= reads the runs from a results folder, a folder of wandb logs or wandb:ENTITY/PROJECT instead; "
        "tables= draws from saved tables. Exit code 1 if the claim cannot be judged.",
        _figure_arguments,
        _figure,
        _figure_list,
    ),
    "new": Command(
        "Write an experiment of your own, with its claim and figure, to change",
        "equisep new experiment batch_size",
        "The files are commented and run as they are. The folder is that of --config-dir (default: own).",
        _new_arguments,
        _new,
    ),
    "measure": Command(
        "Measure the layers of any network of torchvision, timm or transformers",
        "equisep measure torchvision:resnet18 --weights net.safetensors --data folder:images",
        "D, neural collapse and nearest class means of every layer, the law; networks in Python: equisep.measure.",
        measure.add_arguments,
        measure.run,
    ),
    "show": Command(
        "Print D per layer and the law of one run, and draw it",
        "equisep show last",
        "D, ratio and rank of every layer; r, decay ratio, half-life, residual, curvature; accuracies; the figure.",
        _show_arguments,
        _show,
    ),
    "report": Command(
        "Write all results on one page, results/report.html",
        "equisep report",
        "Figures, verdicts and tables that are in the results folder; the figures over all runs are drawn anew.",
        _words("results=FOLDER", "the store (default: results)"),
        _report,
    ),
    "status": Command(
        "List the runs of the store",
        "equisep status architecture.depth=8 state=done",
        "Waiting, queued, running, interrupted, failed, done, diverged and damaged runs, with r and the decay ratio.",
        _words("KEY=VALUE", "filters: a field of the config, state, run or experiment; results=FOLDER"),
        _status,
    ),
    "mirror": Command(
        "Write runs of the store to wandb again",
        "equisep mirror tracking=online",
        "Offline logs that an earlier mirror of a run left are replaced.",
        _mirror_arguments,
        _mirror,
    ),
    "dashboard": Command(
        "Save a workspace for the runs in wandb",
        "equisep dashboard --entity TEAM --project equisep",
        "Needs the extra equisep[dashboard] and, without --json, an account.",
        _dashboard_arguments,
        _dashboard,
    ),
    "page": Command(
        "Write all runs in one file for the browser: a table, D against layer, training curves",
        "equisep page",
        "It needs no server and no network. Without source=, the runs are those of the store.",
        _words(
            "KEY=VALUE", "results=FOLDER, source=SOURCE (a results folder, one of wandb logs, or wandb:ENTITY/PROJECT)"
        ),
        _page,
    ),
}
