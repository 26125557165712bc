"""The command: ``python -m equisep KEY=VALUE …`` runs one, ``-m`` sweeps; ``status``, ``mirror``,
``dashboard`` and ``page`` look after what was made."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from equisep import schema


@hydra.main(config_path=str(schema.conf_folder()), config_name="config", version_base="1.3")
def task(composed: DictConfig) -> dict[str, object]:
    """Run one config, as every Hydra launcher calls it; return what a sweep's caller wants to know of it."""
    config = schema.typed(composed)
    if config.experiment is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise schema.ConfigError(f"experiment={config.experiment}: it is a sweep, put -m in front of it")
    from equisep.sweep import describe, run_one

    facts = run_one(config)
    print(describe(facts))
    return facts


def main() -> int:
    """Run the command line and return its exit code; errors of the user's are one line."""
    schema.register()
    # Hydra prints and exits by itself otherwise; the errors are ours to tell.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        from equisep.data import DataUnavailable
        from equisep.locks import InUse, TaskEnded
        from equisep.runs import DamagedRun

        ours = (schema.ConfigError, DataUnavailable, DamagedRun, InUse, TaskEnded)
    except KeyboardInterrupt:
        return _say_stopped()
    try:
        if sys.argv[1:2] and sys.argv[1] in COMMANDS:
            COMMANDS[sys.argv[1]](sys.argv[2:])
        else:
            task()
    except ours as error:
        print(f"equisep: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ValueError) and not _is_composing(error):
            raise
        print(f"equisep: {schema.explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _say_stopped()
    return 0


def _say_stopped() -> int:
    print("equisep: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
    return 130


def _is_composing(error: BaseException) -> bool:
    """Whether an error came out of Hydra's composition, before any work of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and f"{os.sep}hydra{os.sep}" in frames[-1].filename


def status(overrides: list[str]) -> None:
    """List the runs of the store and their states: ``python -m equisep status [results=FOLDER]``."""
    from equisep.runs import status_table

    results = Path(schema.compose_config(overrides).results)
    table = status_table(results)
    print(table.to_string(index=False) if len(table) else f"no runs under {results}/runs")


def mirror(overrides: list[str]) -> None:
    """Write every run of the store to wandb again: ``python -m equisep mirror [tracking=online …]``."""
    from equisep.tracking import mirror_store

    config = schema.compose_config(overrides)
    count = mirror_store(Path(config.results), config.tracking)
    print(f"mirrored {count} runs of {config.results}")


def dashboard(words: list[str]) -> None:
    """Save a wandb workspace: ``python -m equisep dashboard --entity TEAM --project NAME [--json]``."""
    from equisep.dashboards import build_workspace, save_workspace, workspace_json

    parser = argparse.ArgumentParser("python -m equisep dashboard", description="Save a workspace in wandb.")
    parser.add_argument("--entity", required=True, help="wandb user or team")
    parser.add_argument("--project", required=True, help="wandb project")
    parser.add_argument("--json", action="store_true", help="print what would be saved, and save nothing")
    asked = parser.parse_args(words)
    workspace = build_workspace(asked.entity, asked.project)
    print(workspace_json(workspace) if asked.json else save_workspace(workspace))


def page(words: list[str]) -> None:
    """Show the newest runs in the browser: ``python -m equisep page [port=8808] [results=FOLDER]``."""
    from equisep.dashboards import serve_page

    parser = argparse.ArgumentParser("python -m equisep page", description="Show the newest runs in the browser.")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="port=8808, results=FOLDER")
    words = parser.parse_args(words).words
    ports = [word.removeprefix("port=") for word in words if word.startswith("port=")] or ["8808"]
    if not (ports[-1].isascii() and ports[-1].isdecimal()) or not 0 < int(ports[-1]) < 65536:
        raise schema.ConfigError(f"port={ports[-1]}: give 1 … 65535")
    others = [word for word in words if not word.startswith("port=")]
    serve_page(Path(schema.compose_config(others).results), int(ports[-1]))


COMMANDS = {"status": status, "mirror": mirror, "dashboard": dashboard, "page": page}


if __name__ == "__main__":
    sys.exit(main())
