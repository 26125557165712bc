"""The checkpoint of a population, and the one before, from which it resumes if the newer one is damaged."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from equisep.store.errors import DamagedRun
from equisep.store.folder import RunFolder

if TYPE_CHECKING:
    import torch

_NEWEST, _PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


class Checkpoints:
    """The last two checkpoints in a run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        # Only a checkpoint that was read or written here replaces the one before: another may be damaged.
        self._is_whole = False

    def names(self) -> list[str]:
        """Return the names of the files that exist, the newest first; a crash may have left the previous one alone."""
        return [name for name in (_NEWEST, _PREVIOUS) if (self._folder.path / name).exists()]

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the newest checkpoint, and keep the one that it replaces."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self._folder.write(_NEWEST, buffer.getvalue(), previous=_PREVIOUS if self._is_whole else None)
        self._is_whole = True

    def load(self, device: torch.device, say: Callable[[str], None] | None = None) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole, on a device; None if there is none.

        say: told of a damaged one, as run.log is. Raises DamagedRun if all are damaged.
        """
        import torch

        def parse(content: bytes) -> dict[str, Any]:
            if not content.startswith(b"PK"):
                raise ValueError("not a checkpoint")
            try:
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            except (LookupError, AttributeError, AssertionError) as error:
                # Of a checkpoint without a checksum: damaged content leads the unpickler astray.
                raise ValueError(repr(error)) from None
            return state

        names = self.names()
        remedy = f"remove {'it' if len(names) == 1 else 'it and ' + _PREVIOUS} to train the run from the start"
        damage: DamagedRun | None = None
        for name in names:
            try:
                state = self._folder.read(name, parse, remedy)
            except DamagedRun as error:
                damage = damage or error
                continue
            if damage:
                line = f"{str(damage).removesuffix(remedy)}resuming from the checkpoint before"
                self._folder.log(line)
                if say:
                    say(line)
            self._is_whole = name == _NEWEST
            return state
        if damage:
            raise damage
        return None

    def remove(self) -> None:
        """Remove both checkpoints."""
        self._folder.confirm_held()
        for name in (_NEWEST, _PREVIOUS):
            (self._folder.path / name).unlink(missing_ok=True)
