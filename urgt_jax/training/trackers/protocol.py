"""What a tracker is, and how train.trackers names one."""

import importlib
from typing import NamedTuple, Protocol, runtime_checkable

from etils.epath import Path

from urgt_jax.errors import UserError, import_extra, reason, require
from urgt_jax.images.colour import RGB

PROJECT = "urgt"  # of runs in services that sort them into projects


class BuiltIn(NamedTuple):
    """A tracker that comes with this program, in the module of its name."""

    package: str  # that it needs, from the extra of its name
    class_name: str


BUILT_IN = {
    "tensorboard": BuiltIn("tensorboardX", "TensorBoardTracker"),
    "wandb": BuiltIn("wandb", "WandbTracker"),
    "trackio": BuiltIn("trackio", "TrackioTracker"),
}
METHODS = ("write_scalars", "write_images", "close")


class TrackedRun(NamedTuple):
    """What a tracker learns about a run when it is made."""

    id: str  # the same in every start of the run
    name: str  # that of the work directory
    workdir: Path
    step: int  # steps taken when this start of the run began; later steps are logged again
    config: dict[str, object]  # values by dotted names, such as optim.steps
    commit: str  # commit of the program


@runtime_checkable
class Tracker(Protocol):
    """Receives what a run logs, in the first process of the run and in a thread of its own.

    After an error in one of its methods nothing more is sent to it, and the run continues.
    """

    def __init__(self, run: TrackedRun) -> None:
        """Open the run, or open it again after a resume."""

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Log the values of a step by name, as in a line of metrics.jsonl."""

    def write_images(self, step: int, images: dict[str, RGB]) -> None:
        """Log images of a step by name."""

    def close(self) -> None:
        """Wait until everything is stored."""


def find_tracker(name: str) -> type[Tracker]:
    """The class that `train.trackers` names: a built-in one, or one's own by its dotted path.

    Raises UserError if its package is not installed, or if it is no tracker.
    """
    if name in BUILT_IN:
        import_extra(BUILT_IN[name].package, name)
        module = importlib.import_module(f"urgt_jax.training.trackers.{name}")
        return getattr(module, BUILT_IN[name].class_name)
    what = f"train.trackers {name}"
    module_name, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of one's own may raise anything
        raise UserError(
            f"{what}: cannot import {module_name} ({reason(error)}). Install it, or add its folder "
            "to PYTHONPATH"
        ) from error
    tracker = getattr(module, class_name, None)
    require(isinstance(tracker, type), f"{what}: {module_name} defines no class {class_name}")
    missing = [method for method in METHODS if not hasattr(tracker, method)]
    require(
        not missing,
        f"{what}: the class has no {', '.join(missing)}. A tracker needs {', '.join(METHODS)}",
    )
    return tracker
