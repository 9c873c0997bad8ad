"""Pictures of any size through programs of one shape: tile by tile, shared among devices."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

TILE = (540, 960)  # height and width, pixels: 16 make a picture of 2160 x 3840
Devices = Sequence[jax.Device] | None  # None: all of this process
Size = tuple[int, int]


def scan(
    program: Callable[..., dict[str, jax.Array]],
    maps: Sequence[np.ndarray],
    numbers: Sequence[float] = (),
    *,
    halo: int = 0,
    tile: Size = TILE,
    devices: Devices = None,
) -> Iterator[tuple[tuple[slice, slice], dict[str, np.ndarray]]]:
    """What `program(*tiles, origin, numbers)` returns for every tile, and where the tile lies.

    Maps [H, W, *C] are cut with `halo` pixels of the neighbours and zeros outside the picture. A
    device sees one tile at a time, so neither the results nor the memory depend on how many devices
    there are. `program` must be a function of a module, for which compiled programs are kept.
    """
    picture = maps[0].shape[:2]
    origins = [(t, s) for t in range(0, picture[0], tile[0]) for s in range(0, picture[1], tile[1])]
    devices = tuple(devices or jax.local_devices())[: len(origins)]
    run, sharding = _compiled(program, devices)
    numbers = np.tile(np.asarray(numbers, np.float32), (len(devices), 1))
    waiting = None
    for k in range(0, len(origins), len(devices)):
        group = origins[k : k + len(devices)]
        padded = group + [picture] * (len(devices) - len(group))  # beyond the border; not looked at
        cuts = [np.stack([_cut(x, at, tile, halo) for at in padded]) for x in maps]
        batch = (*cuts, np.array(padded, np.float32), numbers)
        found = run(*jax.device_put(batch, sharding))
        if waiting:  # fetched while the devices work on the next
            yield from _apart(*waiting, picture, tile)
        waiting = group, found
    yield from _apart(*waiting, picture, tile)


@lru_cache
def _compiled(program: Callable, devices: tuple[jax.Device, ...]):
    mesh = Mesh(np.array(devices), ("tile",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("tile")

    def one(*batch):
        return jax.tree.map(lambda x: x[None], program(*(x[0] for x in batch)))

    run = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=split, out_specs=split))
    return run, NamedSharding(mesh, split)


def _cut(picture: np.ndarray, at: Size, tile: Size, halo: int) -> np.ndarray:
    """The tile at an origin with its halo; float64 becomes float32 here, not picture-wide."""
    dtype = bool if picture.dtype == bool else np.float32
    found = np.zeros((tile[0] + 2 * halo, tile[1] + 2 * halo, *picture.shape[2:]), dtype)
    first = [max(a - halo, 0) for a in at]
    part = picture[first[0] : at[0] + tile[0] + halo, first[1] : at[1] + tile[1] + halo]
    top, left = (f - a + halo for f, a in zip(first, at, strict=True))
    found[top : top + part.shape[0], left : left + part.shape[1]] = part
    return found


def _apart(group: list[Size], found: dict[str, jax.Array], picture: Size, tile: Size):
    found = jax.device_get(found)
    for i, (top, left) in enumerate(group):
        rows = slice(top, min(top + tile[0], picture[0]))
        cols = slice(left, min(left + tile[1], picture[1]))
        yield (rows, cols), {name: x[i] for name, x in found.items()}
