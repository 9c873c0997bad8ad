"""Checkpoints in a store that Orbax cannot write to.

Orbax writes to local folders and, through TensorStore, to gs://. For any other store it works on a
local folder. Each checkpoint is uploaded when it is complete, and downloaded when a run resumes.
"""

import re

import jax
from etils.epath import Path

from urgt_jax.errors import require
from urgt_jax.remote import Stage, copy_folder

ORBAX_SCHEMES = ("", "gs")  # a local path has none
PREFIX = "step"  # of the folder of a checkpoint, before its step
FOLDER_NAME = re.compile(rf"{PREFIX}_\d+")
# Written last and removed first, so that a checkpoint with it is complete.
COMPLETE = "commit_success.txt"


class CheckpointMirror:
    """A local copy of a remote folder of checkpoints."""

    def __init__(self, folder: Path):
        require(
            jax.process_count() == 1,
            f"{folder}: several processes can save to gs:// or to a folder that all of them see",
        )
        self.folder = folder
        self.local = Stage(folder).local
        for name in self.complete():
            copy_folder(folder / name, self.local / name)
            (self.local / name / COMPLETE).unlink()

    def complete(self) -> list[str]:
        """The names of the complete checkpoints in the store."""
        names = self._stored()
        return [name for name in names if (self.folder / name / COMPLETE).exists()]

    def upload(self) -> None:
        """Upload the checkpoints that the store lacks, then remove those that are gone here."""
        current = _checkpoints(self.local)
        complete = self.complete()
        for name in current:
            if name not in complete:
                self._remove(name)  # what a killed process has left
                copy_folder(self.local / name, self.folder / name)
                (self.folder / name / COMPLETE).write_bytes(b"")
        for name in self._stored():
            if name not in current:
                self._remove(name)

    def _stored(self) -> list[str]:
        """The names of all checkpoints in the store."""
        return _checkpoints(self.folder) if self.folder.is_dir() else []

    def _remove(self, name: str) -> None:
        (self.folder / name / COMPLETE).unlink(missing_ok=True)
        (self.folder / name).rmtree(missing_ok=True)


def _checkpoints(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder, in order."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if FOLDER_NAME.fullmatch(name)]
