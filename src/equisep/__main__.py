"""The command: ``python -m equisep KEY=VALUE …`` runs one, ``-m`` sweeps; ``status``, ``mirror``,
``dashboard`` and ``page`` show and publish what is in the store.
"""

import argparse
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from equisep.config import (
    ConfigError,
    EquisepError,
    SweepFailed,
    compose_config,
    conf_folder,
    format_config_error,
    register,
    validate_config,
)


@hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
def task(composed: DictConfig) -> dict[str, object]:
    """Run one config, as every Hydra launcher calls it; return its outcome as plain values."""
    config = validate_config(composed)
    if config.experiment is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise ConfigError(f"experiment={config.experiment}: it is a sweep, put -m in front of it")
    from equisep.execution import run_one

    try:
        outcome = run_one(config)
    except EquisepError:
        raise
    except ValueError as error:
        # Hydra reports mistakes in the command as ValueError: one out of a run is not to be taken for such.
        raise RuntimeError(f"the run failed: {error}") from error
    print(outcome)
    return outcome.facts()


def main() -> int:
    """Run the command line and return its exit code; errors that the user can mend are one line."""
    register()
    # Otherwise Hydra prints errors and exits by itself.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        if sys.argv[1:2] and sys.argv[1] in COMMANDS:
            COMMANDS[sys.argv[1]](sys.argv[2:])
        else:
            task()
    except SweepFailed as error:
        return error.exit_code
    except (EquisepError, HydraException, OmegaConfBaseException, ValueError) as error:
        text = str(error) if isinstance(error, EquisepError) else format_config_error(error)
        print(f"equisep: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        from equisep.store import HOW_TO_RESUME

        print(f"equisep: stopped; {HOW_TO_RESUME}", file=sys.stderr)
        return 130
    return 0


def status(overrides: list[str]) -> None:
    """List the runs of the store and their states: ``python -m equisep status [results=FOLDER]``."""
    from equisep.store import status_table

    results = Path(compose_config(overrides).results)
    table = status_table(results)
    print(table.to_string(index=False) if len(table) else f"no runs under {results}/runs")


def mirror(overrides: list[str]) -> None:
    """Write every run of the store to wandb again: ``python -m equisep mirror [tracking=online …]``."""
    from equisep.execution import mirror_store

    config = compose_config(overrides)
    count = mirror_store(Path(config.results), config.tracking)
    print(f"mirrored {count} runs of {config.results}")


def dashboard(words: list[str]) -> None:
    """Save a wandb workspace: ``python -m equisep dashboard --entity TEAM --project NAME [--json]``."""
    from equisep.analysis.dashboards import build_workspace, save_workspace, workspace_json

    parser = argparse.ArgumentParser("python -m equisep dashboard", description="Save a workspace in wandb.")
    parser.add_argument("--entity", required=True, help="wandb user or team")
    parser.add_argument("--project", required=True, help="wandb project")
    parser.add_argument("--json", action="store_true", help="print what would be saved, and save nothing")
    arguments = parser.parse_args(words)
    workspace = build_workspace(arguments.entity, arguments.project)
    print(workspace_json(workspace) if arguments.json else save_workspace(workspace))


def page(words: list[str]) -> None:
    """Show the newest runs in the browser: ``python -m equisep page [port=8808] [results=FOLDER]``."""
    from equisep.analysis.dashboards import serve_page

    parser = argparse.ArgumentParser("python -m equisep page", description="Show the newest runs in the browser.")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="port=8808, results=FOLDER")
    words = parser.parse_args(words).words
    ports = [word.removeprefix("port=") for word in words if word.startswith("port=")] or ["8808"]
    if not (ports[-1].isascii() and ports[-1].isdecimal()) or not 0 < int(ports[-1]) < 65536:
        raise ConfigError(f"port={ports[-1]}: must be an integer in 1 … 65535")
    others = [word for word in words if not word.startswith("port=")]
    serve_page(Path(compose_config(others).results), int(ports[-1]))


COMMANDS = {"status": status, "mirror": mirror, "dashboard": dashboard, "page": page}


if __name__ == "__main__":
    sys.exit(main())
