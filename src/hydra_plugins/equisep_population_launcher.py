"""Hydra's door to equisep.sweep: launchers that train a sweep's jobs as populations, here or on a cluster.

hydra/launcher=population (the default), slurm, debug.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from equisep.schema import ConfigError

if TYPE_CHECKING:
    from equisep.sweep import Elsewhere


class PopulationLauncher(Launcher):
    """Composes the jobs, hands them to run_sweep, and gives back one JobReturn a job, in the order asked."""

    def __init__(self, max_members: int, processes: int | None) -> None:
        self.max_members = max_members
        self.processes = processes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs, as Hydra asks."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a failed one holds its exception, which Hydra raises after the last.

        Composing takes Hydra some 50 ms: it is done once for all jobs that differ in their seed alone, and for all
        before any work, so that what cannot be composed is refused.
        """
        from equisep.sweep import Request, run_sweep

        composed: dict[tuple[str, ...], DictConfig] = {}
        uses_seed: dict[int, bool] = {}

        def compose(overrides: Sequence[str]) -> DictConfig:
            key = tuple(overrides)
            if key not in composed:
                composed[key] = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                with open_dict(composed[key]):
                    del composed[key].hydra
            return composed[key]

        requests = []
        for overrides in job_overrides:
            told = " ".join(filter_overrides(overrides))
            others = [override for override in overrides if not re.fullmatch(r"seed=\d+", override)]
            shared = compose(others) if len(others) == len(overrides) - 1 else None
            if shared is not None and id(shared) not in uses_seed:
                uses_seed[id(shared)] = _uses_seed(shared, others)
            if shared is None or uses_seed[id(shared)]:
                requests.append(Request(told, compose(overrides)))
            else:
                (seed,) = set(overrides) - set(others)
                requests.append(Request(told, shared, int(seed.removeprefix("seed="))))
        results = run_sweep(
            requests, max_members=self.max_members, processes=self.processes, elsewhere=self._elsewhere()
        )
        returns = [JobReturn(overrides=list(overrides), task_name="equisep") for overrides in job_overrides]
        for job, result in zip(returns, results, strict=True):
            job.status = JobStatus.FAILED if isinstance(result, Exception) else JobStatus.COMPLETED
            job.return_value = result
        return returns

    def _elsewhere(self) -> Elsewhere | None:
        """Return what runs the populations, where it is not run_sweep itself."""
        return None


def _uses_seed(composed: DictConfig, overrides: Sequence[str]) -> bool:
    """Whether a config, or an override of it, has more of the seed than its own field: it is not to be shared."""
    text = OmegaConf.to_yaml(composed, resolve=False) + " ".join(overrides)
    return bool(re.search(r"\$\{[^}]*seed|(^|[ +~])seed[=@]", text))


class SlurmLauncher(PopulationLauncher):
    """The same populations as tasks of a SLURM job array; its fields are told in conf/hydra/launcher/slurm.yaml."""

    def __init__(self, max_members: int, debug: bool, wait: bool, **resources: Any) -> None:
        super().__init__(max_members, processes=None)
        self.debug, self.wait, self.resources = debug, wait, resources

    def _elsewhere(self) -> Elsewhere:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise ConfigError("hydra/launcher=slurm: submitit is missing: pip install 'equisep[slurm]'") from None
        from equisep.cluster import Resources, run_in_process, run_on_cluster
        from equisep.sweep import Elsewhere

        for name, value in (("debug", self.debug), ("wait", self.wait)):
            if not isinstance(value, bool):
                raise ConfigError(f"hydra.launcher.{name}={value}: give true or false")
        strange = sorted(set(self.resources) - {field.name for field in fields(Resources)})
        if strange:
            raise ConfigError(f"hydra.launcher.{strange[0]}: no such field of hydra/launcher=slurm")
        resources = Resources(**self.resources)
        if self.debug:
            return Elsewhere(partial(run_in_process, resources=resources), gpu_memory=None)
        return Elsewhere(partial(run_on_cluster, resources=resources, wait=self.wait), resources.gpu_bytes())
