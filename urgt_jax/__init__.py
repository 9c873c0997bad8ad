"""URGT in JAX: refine depth and normal maps of high-resolution pictures."""

__all__ = ["Refiner", "Result", "load"]


def __getattr__(name: str):
    # Workers that only prepare data import the package too, and need no network.
    if name not in __all__:
        raise AttributeError(f"module 'urgt_jax' has no attribute {name!r}")
    from urgt_jax.inference import refiner

    return getattr(refiner, name)
