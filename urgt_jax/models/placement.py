"""Where activations lie: what model code says about itself, and a mesh may make use of.

Model code knows no mesh. It calls the placement in force, which on one device does nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Array, Float, Int

AttentionFunction = Callable[..., Float[Array, "B N H D"]]


class Placement:
    """Everything on one device, or wherever the compiler likes."""

    gathers = False  # whether `held` brings a block's weights together for its turn

    def map_patches(self, network: Callable, weights, patches):
        """network(weights, patches) on arrays [B, P, ...] of patches that do not see each other."""
        return network(weights, patches)

    def padded_count(self, patches: int) -> int:
        """The number of patches to which some are added so that they can be shared."""
        return patches

    def gather_block(self, block, dtype):
        """A block's weights when its turn in a loop has come."""
        return block

    def shard_tokens(self, x: Float[Array, "B P ..."]) -> Float[Array, "B P ..."]:
        """Tokens of patches between blocks."""
        return x

    def attend(
        self,
        kernel: AttentionFunction,
        q: Float[Array, "B N H D"],
        k: Float[Array, "B N H D"],
        v: Float[Array, "B N H D"],
        *owners: Int[Array, "B N"],
        across: bool,
    ) -> Float[Array, "B N H D"]:
        """Attention, among the tokens of one patch or across all patches of a picture.

        Patches of several pictures in one sequence come with the owners of all tokens.
        """
        return kernel(q, k, v, *owners)


SINGLE_DEVICE = Placement()
_IN_FORCE: ContextVar[Placement | None] = ContextVar("placement", default=None)


def current_placement() -> Placement:
    """The placement in force where this is traced."""
    return _IN_FORCE.get() or SINGLE_DEVICE


@contextmanager
def use_placement(new: Placement) -> Iterator[None]:
    """Puts a placement in force for what is traced inside."""
    token = _IN_FORCE.set(new)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)
