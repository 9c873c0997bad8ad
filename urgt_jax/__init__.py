"""URGT in JAX: refines depth and normal maps of high-resolution images."""

import importlib

__version__ = "0.2.0"

_MODULES = {
    "Config": "urgt_jax.config",
    "Refiner": "urgt_jax.inference.refiner",
    "Result": "urgt_jax.inference.refiner",
    "load": "urgt_jax.inference.refiner",
    "train": "urgt_jax.training.loop",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    # Imported on first use: workers that only prepare data need no network.
    if name not in _MODULES:
        raise AttributeError(f"module 'urgt_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
