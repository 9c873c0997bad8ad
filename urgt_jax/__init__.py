"""URGT in JAX: refines depth and normal maps of high-resolution images."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from urgt_jax.config import Config
    from urgt_jax.inference.functional import merge, patchify
    from urgt_jax.inference.refiner import Refiner, Result, load
    from urgt_jax.models.apply import apply
    from urgt_jax.training.loop import train
    from urgt_jax.training.losses import losses
    from urgt_jax.training.step import initial_params as init

__version__ = "0.2.0"
__all__ = [
    "Config",
    "Refiner",
    "Result",
    "__version__",
    "apply",
    "init",
    "load",
    "losses",
    "merge",
    "patchify",
    "train",
]
_MODULES = {
    "Config": "urgt_jax.config",
    "Refiner": "urgt_jax.inference.refiner",
    "Result": "urgt_jax.inference.refiner",
    "apply": "urgt_jax.models.apply",
    "init": "urgt_jax.training.step:initial_params",
    "load": "urgt_jax.inference.refiner",
    "losses": "urgt_jax.training.losses",
    "merge": "urgt_jax.inference.functional",
    "patchify": "urgt_jax.inference.functional",
    "train": "urgt_jax.training.loop",
}


def __getattr__(name: str):
    """Import a public name on first use, so that `import urgt_jax` does not wait for JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module 'urgt_jax' has no attribute {name!r}")
    module, _, name_there = _MODULES[name].partition(":")
    value = getattr(importlib.import_module(module), name_there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
