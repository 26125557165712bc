"""Hydra's basic sweeper without its validation of every job, which the population launcher does anyway."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.launcher import Launcher

from hydra_plugins.equisep_population_launcher import PopulationLauncher


class PopulationSweeper(BasicSweeper):
    """Passes on all jobs of a sweep at once; the basic sweeper takes ten minutes to validate 10,000 of them."""

    launcher: Launcher | None

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose each job, as the basic sweeper does, only for Hydra's own launchers."""
        if not isinstance(self.launcher, PopulationLauncher):
            super().validate_batch_is_legal(batch)
