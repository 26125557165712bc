"""The command line: ``python -m equisep KEY=VALUE …`` runs one config, with ``-m`` a sweep; ``status``, ``mirror``,
``dashboard`` and ``page`` show and publish the store.
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
    compose_config,
    conf_folder,
    format_config_error,
    register,
    require,
    validate_config,
)


@hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
def task(composed: DictConfig) -> dict[str, object]:
    """Run one config, for any Hydra launcher; return its outcome as plain values."""
    config = validate_config(composed)
    if config.experiment is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise ConfigError(f"experiment={config.experiment}: is a sweep; add -m to the command")
    from equisep.execution import run_one

    try:
        outcome = run_one(config)
    except EquisepError:
        raise
    except ValueError as error:
        # Hydra reports errors in the command as ValueError, which an error of a run must not be mistaken for.
        raise RuntimeError(f"the run failed: {error}") from error
    print(outcome)
    return outcome.facts()


def main() -> int:
    """Run the command line and return its exit code; errors that the user can correct are printed as one line."""
    register()
    # Without it, Hydra prints errors and exits itself.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        if sys.argv[1:2] and sys.argv[1] in COMMANDS:
            COMMANDS[sys.argv[1]](sys.argv[2:])
        else:
            _run_configs()
    except (EquisepError, HydraException, OmegaConfBaseException) as error:
        message = str(error) if isinstance(error, EquisepError) else format_config_error(error)
        print(f"equisep: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        from equisep.store import HOW_TO_RESUME

        print(f"equisep: stopped; {HOW_TO_RESUME}", file=sys.stderr)
        return 130
    return 0


def _run_configs() -> None:
    try:
        task()
    except (EquisepError, HydraException, OmegaConfBaseException):
        raise
    except ValueError as error:
        # One of Hydra's errors in the command.
        raise ConfigError(format_config_error(error)) from None


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
    print(f"mirrored {mirror_store(Path(config.results), config.tracking)} runs of {config.results}")


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
    *_, port = ("8808", *(word.removeprefix("port=") for word in words if word.startswith("port=")))
    valid = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    require(valid, "port", port, "must be an integer in 1 … 65535")
    overrides = [word for word in words if not word.startswith("port=")]
    serve_page(Path(compose_config(overrides).results), int(port))


COMMANDS = {"status": status, "mirror": mirror, "dashboard": dashboard, "page": page}


if __name__ == "__main__":
    sys.exit(main())
