"""One config, or a sweep, through Hydra."""

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from equisep.config import ConfigError, EquisepError, conf_folder, validate_config


@hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
def task(composed: DictConfig) -> dict[str, object]:
    """Run one config, for any Hydra launcher; return its outcome as plain values."""
    config = validate_config(composed)
    alone = HydraConfig.get().mode != RunMode.MULTIRUN
    if config.experiment is not None and alone:
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
    if alone and outcome.final is not None:
        from equisep.commands.show import draw

        print(f"figure: {draw(outcome.run, outcome.final)}")
    return outcome.facts()
