"""One config, or a sweep, through Hydra."""

import os
import sys
from collections.abc import Sequence

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from equisep.config import (
    ConfigError,
    EquisepError,
    conf_folder,
    format_config_error,
    in_hydra_grammar,
    measure_id,
    nearest,
    own_conf_folder,
    refuse_unknown_words,
    register,
    validate_config,
)
from equisep.process import prepare_process

# Hydra's options, those that take a value first.
WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--config-path", "-cp"),
    "--experimental-rerun",
)
OPTIONS = (
    *WITH_VALUE,
    *("--multirun", "-m", "--run", "-r", "--resolve", "--info", "-i", "--hydra-help"),
    *("--shell-completion", "-sc"),
)
CFG = ("job", "hydra", "all")
ELSEWHERE = ("--config-path", "-cp")


def run_configs(words: Sequence[str]) -> None:
    """Run what ``equisep WORDS…`` asks of Hydra: one config, a sweep (``-m``), or a look at a config (``--cfg job``).

    Raises ConfigError, in one line with the nearest names, for words that cannot be composed.
    """
    prepare_process()
    options, overrides = _split(words)
    own = own_conf_folder()
    # Another folder in place of ours may have groups and options that are not known here.
    if not any(option.partition("=")[0] in ELSEWHERE for option in options):
        refuse_unknown_words(overrides)
        options = ["--config-dir", str(own), *options] if own else options
    if own and (own / "claims.yaml").is_file():
        # A claim that cannot be judged is told before its runs are trained.
        from equisep.analysis.claims import load_claims

        load_claims()
    register()
    # Without it, Hydra prints errors and exits itself.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    failures: list[Exception] = []

    @hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    def task(composed: DictConfig) -> dict[str, object] | None:
        alone = HydraConfig.get().mode != RunMode.MULTIRUN
        try:
            return _run(composed, alone)
        except Exception as error:
            # Raised after Hydra has ended: it would print a line of its own before the error.
            if not alone:
                raise
            failures.append(error)
            return None

    before, sys.argv = sys.argv, [sys.argv[0], *options, *map(in_hydra_grammar, overrides)]
    try:
        task()
    except EquisepError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(format_config_error(error)) from None
    finally:
        sys.argv = before
    if failures:
        raise failures[0]


def _run(composed: DictConfig, alone: bool) -> dict[str, object]:
    config = validate_config(composed)
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

        print(f"figure: {draw(outcome.run, outcome.final, measure_id(config.measure))}")
    return outcome.facts()


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's options, with their values, and the overrides: Hydra takes options before overrides only."""
    options: list[str] = []
    overrides: list[str] = []
    for word, previous in zip(words, ["", *words], strict=False):
        name, equals, _ = word.partition("=")
        if previous in ("--cfg", "-c") and word not in CFG:
            raise ConfigError(f"{previous} {word}: choose one of {', '.join(CFG)}")
        if previous in WITH_VALUE:
            options.append(word)
        elif not word.startswith("-"):
            overrides.append(word)
        elif name in OPTIONS and equals and name not in WITH_VALUE:
            raise ConfigError(f"{word}: {name} takes no value")
        elif name in OPTIONS:
            options.append(word)
        else:
            raise ConfigError(f"{name}: no such option{nearest(name, (*OPTIONS, '--help')) or '; see equisep --help'}")
    return options, overrides
