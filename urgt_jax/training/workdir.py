"""A work directory belongs to one run at a time, and to one configuration for good."""

import dataclasses
import secrets

from etils.epath import Path

from urgt_jax.config import Config
from urgt_jax.config_files import flatten, from_json, to_json
from urgt_jax.distributed import all_agree, is_first_process
from urgt_jax.errors import UserError, require
from urgt_jax.files import make_folder, read_text, write_text
from urgt_jax.folder_lock import LOCK, FolderLock, this_process
from urgt_jax.remote import is_remote

# Fields that may change when a run is resumed: where the data is stored and who prepares it, what
# is logged and saved, and how the work is distributed (with the same results up to rounding).
CHANGEABLE_FIELDS = {
    "data.path",
    "data.priors_path",
    "data.workers",
    "data.max_unreadable",
    "mesh.data",
    "mesh.fsdp",
    "mesh.patch",
    "mesh.span_slices",
    "model.remat",
    "optim.accumulate",
    "optim.max_skipped_steps",
    "optim.skip_above_grad_norm",
    "train.save_every",
    "train.save_minutes",
    "train.log_every",
    "train.profile",
    "train.trackers",
    "train.images_every",
}


class RemoteOwner:
    """Takes a remote work directory over from other processes; a store has no locks.

    The last process that has started is the owner. The others find that out before they save the
    next checkpoint.
    """

    def __init__(self, workdir: Path):
        self.path = make_folder(workdir) / LOCK
        self.owner = f"{this_process()} {secrets.token_hex(4)}"
        write_text(self.path, self.owner)

    def is_held(self) -> bool:
        """Whether no other process has taken over."""
        try:
            return self.path.read_text() == self.owner
        except Exception:  # each store has errors of its own; the next save asks again
            return True

    def release(self) -> None:
        """Nothing to do."""


Lock = FolderLock | RemoteOwner


def check_lock(lock: Lock | None, workdir: Path) -> None:
    """Fail in all processes of a run if another run has taken over the work directory."""
    if is_remote(workdir):
        require(
            all_agree(lock is None or lock.is_held()),
            f"{workdir} was taken over by another run, which has started later. This one stops and "
            "saves nothing more",
        )


def lock_workdir(workdir: Path) -> Lock | None:
    """The lock of a run, which its first process holds; all processes fail if it cannot."""
    lock = None
    problem = None
    if is_first_process():
        try:
            lock = RemoteOwner(workdir) if is_remote(workdir) else FolderLock(workdir, "--workdir")
        except UserError as error:
            problem = error
    if not all_agree(problem is None):
        raise problem or UserError(f"{workdir} is in use: see the output of process 0")
    return lock


def claim(workdir: Path, config: Config) -> None:
    """Bind the work directory to this configuration; fails if it belongs to another one."""
    path = make_folder(workdir) / "config.json"
    if not path.exists():
        write_text(path, to_json(config))
        return
    text = read_text(path, "configuration of the run")
    saved = flatten(dataclasses.asdict(from_json(Config, text, str(path))))
    current = flatten(dataclasses.asdict(config))
    differing = {name for name in current if saved[name] != current[name]} - CHANGEABLE_FIELDS
    require(
        not differing,
        f"{workdir} belongs to another configuration, which differs in "
        f"{', '.join(sorted(differing))}. Choose another --workdir.",
    )
