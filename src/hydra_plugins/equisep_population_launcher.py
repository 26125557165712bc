"""Hydra launchers that train a sweep's jobs as populations: population (the default), slurm and debug."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from equisep.config import ConfigError, compose_sweep, require, require_extra

if TYPE_CHECKING:
    from equisep.execution import RemoteExecutor


class PopulationLauncher(Launcher):
    """Composes the jobs, passes them to launch_sweep, and returns one JobReturn per job, in their order."""

    def __init__(self, max_members: int, processes: int | None) -> None:
        self.max_members = max_members
        self.processes = processes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the config for launch."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; raises SystemExit after the last one if some failed, ConfigError for invalid overrides."""
        from equisep.commands.sweep_table import sweep_table
        from equisep.execution import Request, launch_sweep

        if not job_overrides:
            raise ConfigError("the sweep has no runs: one of its ranges or lists is empty")
        remote = self._remote_executor()
        configs = compose_sweep(job_overrides, self.config.hydra.job.config_name)
        requests = [
            Request(" ".join(filter_overrides(overrides)), config)
            for overrides, config in zip(job_overrides, configs, strict=True)
        ]
        outcomes, exit_code = launch_sweep(
            requests, max_members=self.max_members, processes=self.processes, remote=remote
        )
        ended = [(list(job), facts) for job, facts in zip(job_overrides, outcomes, strict=True) if facts]
        table = sweep_table([overrides for overrides, _ in ended], [facts for _, facts in ended])
        if table:
            print(table)
        if exit_code:
            raise SystemExit(exit_code)
        completed = JobStatus.COMPLETED
        return [
            JobReturn(overrides=list(overrides), task_name="equisep", status=completed, _return_value=outcome)
            for overrides, outcome in zip(job_overrides, outcomes, strict=True)
        ]

    def _remote_executor(self) -> RemoteExecutor | None:
        """Return what runs the populations, None for this machine."""
        return None


class SlurmLauncher(PopulationLauncher):
    """Runs the populations as tasks of a SLURM job array; conf/hydra/launcher/slurm.yaml describes the fields."""

    def __init__(self, max_members: int, debug: bool, wait: bool, **resources: Any) -> None:
        super().__init__(max_members, processes=None)
        self.debug, self.wait, self.resources = debug, wait, resources

    def _remote_executor(self) -> RemoteExecutor:
        require_extra("submitit", "slurm", f"hydra/launcher={'debug' if self.debug else 'slurm'}")
        from equisep.execution import RemoteExecutor, Resources, run_in_process, run_on_cluster

        for name, value in (("debug", self.debug), ("wait", self.wait)):
            require(isinstance(value, bool), f"hydra.launcher.{name}", value, "must be true or false")
        unknown = sorted(set(self.resources) - {field.name for field in fields(Resources)})
        if unknown:
            raise ConfigError(f"hydra.launcher.{unknown[0]}: not a field of hydra/launcher=slurm")
        resources = Resources(**self.resources)
        if self.debug:
            return RemoteExecutor(partial(run_in_process, resources=resources), gpu_memory=None)
        return RemoteExecutor(partial(run_on_cluster, resources=resources, wait=self.wait), resources.gpu_bytes())
