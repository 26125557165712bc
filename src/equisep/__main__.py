"""The command: ``python -m equisep KEY=VALUE …`` runs one, ``-m`` sweeps; ``status`` and ``mirror`` serve the store."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from equisep import schema

COMMANDS = ("status", "mirror")


@hydra.main(config_path=str(schema.conf_folder()), config_name="config", version_base="1.3")
def task(composed: DictConfig) -> dict[str, object]:
    """Run one config, as every Hydra launcher calls it; return what a sweep's caller wants to know of it."""
    config = schema.typed(composed)
    from equisep.run import execute

    outcome = execute(config)
    summary: dict[str, object] = {"run": outcome.run.id, "state": outcome.state}
    line = f"run {outcome.run.id}: {outcome.state}"
    if outcome.final is not None and outcome.state == "done":
        law = outcome.law()
        summary |= {"r": law.pearson_r, "decay_ratio": law.decay_ratio, "train_accuracy": outcome.final.accuracy}
        line += f", r = {law.pearson_r:.4f}, ρ = {law.decay_ratio:.4f}, training accuracy {outcome.final.accuracy:.4f}"
    print(line + ("" if outcome.trained_epochs else " (nothing to train)"))
    return summary


def main() -> int:
    """Run the command line and return its exit code; errors of the user's are one line."""
    schema.register()
    # Hydra prints and exits by itself otherwise; the errors are ours to tell.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    from equisep.data import DataUnavailable

    try:
        if sys.argv[1:2] and sys.argv[1] in COMMANDS:
            return _look_after_store(sys.argv[1:])
        task()
    except (schema.ConfigError, DataUnavailable) as error:
        print(f"equisep: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        print(f"equisep: {schema.explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("equisep: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _look_after_store(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m equisep")
    commands = parser.add_subparsers(dest="command", required=True)
    descriptions = {
        "status": "list the runs of the store and their states",
        "mirror": "write every run of the store to wandb again",
    }
    for name, description in descriptions.items():
        command = commands.add_parser(name, help=description, description=description)
        command.add_argument(
            "--results",
            type=Path,
            default=Path(os.environ.get("EQUISEP_RESULTS", "results")),
            help="folder of the store",
        )
        if name == "mirror":
            command.add_argument("--online", action="store_true", help="to a wandb project instead of RESULTS/wandb")
            command.add_argument("--project", default="equisep", help="wandb project")
            command.add_argument("--entity", help="wandb user or team")
    options = parser.parse_args(arguments)
    if options.command == "status":
        from equisep.runs import status_table

        table = status_table(options.results)
        print(table.to_string(index=False) if len(table) else f"no runs under {options.results}/runs")
        return 0
    from equisep.tracking import mirror_store

    mode = "online" if options.online else "offline"
    count = mirror_store(options.results, schema.Tracking(mode=mode, project=options.project, entity=options.entity))
    print(f"mirrored {count} runs of {options.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
