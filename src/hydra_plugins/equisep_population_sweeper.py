"""Hydra's basic sweeper without its trial composition of every job, which the population launcher does anyway."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.launcher import Launcher

from hydra_plugins.equisep_population_launcher import PopulationLauncher


class PopulationSweeper(BasicSweeper):
    """Hands the jobs of a sweep over at once; 10,000 of them would take the basic one ten minutes to try."""

    launcher: Launcher | None

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave it to the population launcher; for Hydra's own launchers compose each job as the basic sweeper does."""
        if not isinstance(self.launcher, PopulationLauncher):
            super().validate_batch_is_legal(batch)
