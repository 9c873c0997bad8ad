"""URGT in JAX: refines depth and normal maps of high-resolution images."""

import importlib
from typing import TYPE_CHECKING

from urgt_jax.streams import root_logger_unchanged

if TYPE_CHECKING:
    from urgt_jax.config import Config
    from urgt_jax.inference.functional import PatchBatch, merge, patchify
    from urgt_jax.inference.refiner import Refiner, Result, load
    from urgt_jax.models.apply import Batch, Maps, apply
    from urgt_jax.training.batches import batches
    from urgt_jax.training.loop import train
    from urgt_jax.training.losses import TrainingBatch, losses
    from urgt_jax.training.sharding import make_mesh
    from urgt_jax.training.step import State, initial_state, train_step
    from urgt_jax.training.step import initial_params as init

__version__ = "0.2.0"
__all__ = [
    "Batch",
    "Config",
    "Maps",
    "PatchBatch",
    "Refiner",
    "Result",
    "State",
    "TrainingBatch",
    "__version__",
    "apply",
    "batches",
    "init",
    "initial_state",
    "load",
    "losses",
    "make_mesh",
    "merge",
    "patchify",
    "train",
    "train_step",
]
_MODULES = {
    "Batch": "urgt_jax.models.apply",
    "Config": "urgt_jax.config",
    "Maps": "urgt_jax.models.apply",
    "PatchBatch": "urgt_jax.inference.functional",
    "Refiner": "urgt_jax.inference.refiner",
    "Result": "urgt_jax.inference.refiner",
    "State": "urgt_jax.training.step",
    "TrainingBatch": "urgt_jax.training.losses",
    "apply": "urgt_jax.models.apply",
    "batches": "urgt_jax.training.batches",
    "init": "urgt_jax.training.step:initial_params",
    "initial_state": "urgt_jax.training.step",
    "load": "urgt_jax.inference.refiner",
    "losses": "urgt_jax.training.losses",
    "make_mesh": "urgt_jax.training.sharding",
    "merge": "urgt_jax.inference.functional",
    "patchify": "urgt_jax.inference.functional",
    "train": "urgt_jax.training.loop",
    "train_step": "urgt_jax.training.step",
}


def __getattr__(name: str):
    """Import a public name on first use, so that `import urgt_jax` does not wait for JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module 'urgt_jax' has no attribute {name!r}")
    module, _, name_there = _MODULES[name].partition(":")
    with root_logger_unchanged():
        value = getattr(importlib.import_module(module), name_there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
