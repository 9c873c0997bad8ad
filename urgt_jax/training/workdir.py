"""A work directory belongs to one run at a time, and to one configuration for good."""

import dataclasses

from etils.epath import Path

from urgt_jax.config import Config
from urgt_jax.config_files import flatten, from_json, to_json
from urgt_jax.distributed import all_agree, is_first_process
from urgt_jax.errors import UserError, require
from urgt_jax.files import make_folder, read_text, write_text
from urgt_jax.folder_lock import FolderLock

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
    "model.remat",
    "optim.accumulate",
    "optim.max_skipped_steps",
    "optim.skip_above_grad_norm",
    "train.save_every",
    "train.log_every",
    "train.tensorboard",
    "train.images_every",
}


def lock_workdir(workdir: Path) -> FolderLock | None:
    """The lock of a run, which its first process holds; all processes fail if it cannot."""
    lock = None
    problem = None
    if is_first_process():
        try:
            lock = FolderLock(workdir, "--workdir")
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
