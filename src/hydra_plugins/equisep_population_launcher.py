"""Hydra's door to equisep.execution: launchers that train a sweep's jobs as populations, here or on a cluster.

hydra/launcher=population (the default), slurm, debug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from equisep.config import ConfigError, compose_sweep, require

if TYPE_CHECKING:
    from equisep.execution import RemoteExecutor


class PopulationLauncher(Launcher):
    """Composes the jobs, hands them to run_sweep, and returns one JobReturn per job, in the order of the jobs."""

    def __init__(self, max_members: int, processes: int | None) -> None:
        self.max_members = max_members
        self.processes = processes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs, as Hydra asks."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; raises SweepFailed after the last one where some failed.

        All are composed before any work, so that an override that cannot be applied is refused.
        """
        from equisep.execution import Request, launch_sweep

        remote = self._remote()
        configs = compose_sweep(job_overrides, self.config.hydra.job.config_name)
        requests = [
            Request(" ".join(filter_overrides(overrides)), config)
            for overrides, config in zip(job_overrides, configs, strict=True)
        ]
        found = launch_sweep(requests, max_members=self.max_members, processes=self.processes, remote=remote)
        completed = JobStatus.COMPLETED
        return [
            JobReturn(overrides=list(overrides), task_name="equisep", status=completed, _return_value=facts)
            for overrides, facts in zip(job_overrides, found, strict=True)
        ]

    def _remote(self) -> RemoteExecutor | None:
        """Return what runs the populations, where it is not this machine."""
        return None


class SlurmLauncher(PopulationLauncher):
    """The same populations as tasks of a SLURM job array; conf/hydra/launcher/slurm.yaml describes its fields."""

    def __init__(self, max_members: int, debug: bool, wait: bool, **resources: Any) -> None:
        super().__init__(max_members, processes=None)
        self.debug, self.wait, self.resources = debug, wait, resources

    def _remote(self) -> RemoteExecutor:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise ConfigError("hydra/launcher=slurm: submitit is missing: pip install 'equisep[slurm]'") from None
        from equisep.execution import RemoteExecutor, Resources, run_in_process, run_on_cluster

        for name, value in (("debug", self.debug), ("wait", self.wait)):
            require(isinstance(value, bool), f"hydra.launcher.{name}", value, "must be true or false")
        unknown = sorted(set(self.resources) - {field.name for field in fields(Resources)})
        if unknown:
            raise ConfigError(f"hydra.launcher.{unknown[0]}: no such field of hydra/launcher=slurm")
        resources = Resources(**self.resources)
        if self.debug:
            return RemoteExecutor(partial(run_in_process, resources=resources), gpu_memory=None)
        return RemoteExecutor(partial(run_on_cluster, resources=resources, wait=self.wait), resources.gpu_bytes())
