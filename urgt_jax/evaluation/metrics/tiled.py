"""Process images of any size tile by tile, shared among devices, with one compiled program."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

TILE = (540, 960)  # height and width of a tile, pixels: 16 of them make an image of 2160 x 3840
Devices = Sequence[jax.Device] | None  # None: all devices of this process
Size = tuple[int, int]  # height and width, pixels
Region = tuple[slice, slice]  # rows and columns of an image


def scan(
    program: Callable[..., dict[str, jax.Array]],
    maps: Sequence[np.ndarray],
    numbers: Sequence[float] | np.ndarray = (),
    *,
    halo: int = 0,
    tile: Size = TILE,
    devices: Devices = None,
) -> Iterator[tuple[Region, dict[str, np.ndarray]]]:
    """Yield the region of every tile and the outputs of `program(*tiles, origin, numbers)`.

    Maps [H, W, *C] are cut with `halo` pixels of the neighbouring tiles, and zeros outside the
    image. A device works on one tile at a time, so neither the results nor the memory per device
    depend on the number of devices. Compiled programs are cached by `program`, so it must be a
    module-level function.
    """
    size = maps[0].shape[:2]
    origins = []
    for top in range(0, size[0], tile[0]):
        for left in range(0, size[1], tile[1]):
            origins.append((top, left))
    devices = tuple(devices or jax.local_devices())[: len(origins)]
    run, sharding = compile_program(program, devices)
    numbers = np.tile(np.asarray(numbers, np.float32), (len(devices), 1))
    previous = None
    for start in range(0, len(origins), len(devices)):
        group = origins[start : start + len(devices)]
        # Idle devices get a tile beyond the image border, whose outputs are dropped.
        padded = group + [size] * (len(devices) - len(group))
        tiles = [np.stack([cut_tile(x, at, tile, halo) for at in padded]) for x in maps]
        batch = (*tiles, np.array(padded, np.float32), numbers)
        outputs = run(*jax.device_put(batch, sharding))
        # Fetch the previous outputs only now, while the devices work on these.
        if previous is not None:
            yield from split_outputs(*previous, size, tile)
        previous = group, outputs
    yield from split_outputs(*previous, size, tile)


@lru_cache
def compile_program(
    program: Callable[..., dict[str, jax.Array]], devices: tuple[jax.Device, ...]
) -> tuple[Callable[..., dict[str, jax.Array]], NamedSharding]:
    """The program over a batch with one tile per device, and the sharding of that batch."""
    mesh = Mesh(np.array(devices), ("tile",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("tile")

    def on_one_device(*batch):
        outputs = program(*(x[0] for x in batch))
        return jax.tree.map(lambda x: x[None], outputs)

    run = jax.jit(jax.shard_map(on_one_device, mesh=mesh, in_specs=spec, out_specs=spec))
    return run, NamedSharding(mesh, spec)


def cut_tile(image: np.ndarray, origin: Size, tile: Size, halo: int) -> np.ndarray:
    """The tile at `origin` with its halo; floats become float32 here, one tile at a time."""
    dtype = bool if image.dtype == bool else np.float32
    result = np.zeros((tile[0] + 2 * halo, tile[1] + 2 * halo, *image.shape[2:]), dtype)
    first_row = max(origin[0] - halo, 0)
    first_column = max(origin[1] - halo, 0)
    last_row = origin[0] + tile[0] + halo
    last_column = origin[1] + tile[1] + halo
    part = image[first_row:last_row, first_column:last_column]
    top = first_row - origin[0] + halo
    left = first_column - origin[1] + halo
    result[top : top + part.shape[0], left : left + part.shape[1]] = part
    return result


def split_outputs(
    origins: list[Size], outputs: dict[str, jax.Array], size: Size, tile: Size
) -> Iterator[tuple[Region, dict[str, np.ndarray]]]:
    """The region and the outputs of each tile of a batch."""
    outputs = jax.device_get(outputs)
    for i, (top, left) in enumerate(origins):
        rows = slice(top, min(top + tile[0], size[0]))
        columns = slice(left, min(left + tile[1], size[1]))
        yield (rows, columns), {name: x[i] for name, x in outputs.items()}
