"""Where activations are stored: hints from the models that a mesh of devices may use.

A model knows no mesh. It calls the current placement, which on a single device changes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jaxtyping import Array, Float, Int

AttentionFunction = Callable[..., Float[Array, "B N H D"]]  # (q, k, v) or (q, k, v, owner)


class Placement:
    """Everything on one device, or wherever the compiler puts it."""

    gathers = False  # whether `gather_block` collects weights that are cut over devices

    def map_patches(self, function: Callable, weights: Any, patches: Any) -> Any:
        """function(weights, patches) on arrays [B, P, ...] of patches that are independent."""
        return function(weights, patches)

    def padded_count(self, patches: int) -> int:
        """The number of patches to pad to, so that the devices can share them evenly."""
        return patches

    def gather_block(self, block: Any, dtype: Any) -> Any:
        """The weights of a block, just before a loop over blocks uses them."""
        return block

    def shard_tokens(self, x: Array) -> Array:
        """An array [B, P, ...] of patches, between blocks."""
        return x

    def attend(
        self,
        kernel: AttentionFunction,
        q: Float[Array, "B N H D"],
        k: Float[Array, "B N H D"],
        v: Float[Array, "B N H D"],
        owner: Int[Array, "B N"] | None = None,
        *,
        across: bool,
    ) -> Float[Array, "B N H D"]:
        """Attention among the tokens of one patch, or `across` all patches of an image.

        Where a row holds several images, `owner` is the image of each token.
        """
        if owner is None:
            return kernel(q, k, v)
        return kernel(q, k, v, owner)


SINGLE_DEVICE = Placement()
_current: ContextVar[Placement] = ContextVar("placement", default=SINGLE_DEVICE)


def current_placement() -> Placement:
    """The placement that is in force where the program is traced."""
    return _current.get()


@contextmanager
def use_placement(placement: Placement) -> Iterator[None]:
    """Use a placement for everything that is traced inside."""
    token = _current.set(placement)
    try:
        yield
    finally:
        _current.reset(token)
