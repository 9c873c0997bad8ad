"""Renders scenes: cuts images into tiles, runs the compiled programs, and joins their results.

The programs take tiles and blocks of fixed sizes, so that images of all sizes share them.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from urgt_jax.data.scenes import develop, tiles
from urgt_jax.data.scenes.arrays import CameraArrays, SceneArrays, pack, pack_camera
from urgt_jax.data.scenes.camera import Camera
from urgt_jax.data.scenes.develop import Block, reach
from urgt_jax.data.scenes.scene import Scene, View
from urgt_jax.data.scenes.shading import Maps, render_tile
from urgt_jax.data.scenes.tiles import Tile, make_tiles

# Tiles and blocks of the camera per call, on the CPU and on an accelerator.
TILES_IN_TURN = 32
TILES_TOGETHER = 256
BLOCKS_IN_TURN = 8
BLOCKS_TOGETHER = 64
MARGIN = 16  # the margin around the camera's blocks is a multiple of this, pixels
F = np.float32


def render(scene: Scene, height: int, width: int, workers: int = 1) -> View:
    """Renders a scene at a resolution, with that many calls of the programs at a time."""
    focal = height / 2 / np.tan(scene.view / 2)
    intrinsics = np.array([focal, focal, width / 2, height / 2])
    maps = _render_maps(scene, intrinsics, height, width, workers)
    if scene.camera is None:
        image = (np.clip(maps.light, 0, 1) * 255 + F(0.5)).astype(np.uint8)
    else:
        image = take(scene.camera, maps.light, workers)
    return View(image, maps.depth, maps.normal, maps.depth > 0, intrinsics.astype(F))


def _render_maps(
    scene: Scene, intrinsics: Float[np.ndarray, "4"], height: int, width: int, workers: int
) -> Maps:
    """Light, depth and normals of a whole image."""
    arrays = pack(scene)
    all_tiles = make_tiles(scene, intrinsics, height, width)
    on_cpu = _on_cpu()
    calls = list(_calls(len(all_tiles.corner), TILES_IN_TURN if on_cpu else TILES_TOGETHER))

    def draw(call: tuple[np.ndarray, int]) -> Maps:
        numbers, count = call
        chosen = jax.tree.map(lambda field: field[numbers], all_tiles)
        if on_cpu:
            maps = render_in_turn(arrays, chosen, count)
        else:
            maps = render_together(arrays, chosen)
        return jax.tree.map(np.asarray, maps)

    light = np.empty((height, width, 3), F)
    depth = np.empty((height, width), F)
    normal = np.empty((height, width, 3), F)
    with ThreadPoolExecutor(workers) as pool:
        for (numbers, count), maps in zip(calls, pool.map(draw, calls), strict=True):
            corners = all_tiles.corner[numbers[:count]]
            _paste(light, maps.light, corners)
            _paste(depth, maps.depth, corners)
            _paste(normal, maps.normal, corners)
    return Maps(light, depth, normal)


def _on_cpu() -> bool:
    """Whether programs run on the CPU, where working on one part after the other is quicker."""
    return jax.default_backend() == "cpu"


def _calls(total: int, most: int) -> Iterator[tuple[Int[np.ndarray, "most"], int]]:
    """The numbers for each call of a program that takes `most` of them, and how many are wanted."""
    for start in range(0, total, most):
        numbers = np.arange(start, start + most)
        yield np.minimum(numbers, total - 1), min(most, total - start)


def _paste(whole: np.ndarray, parts: np.ndarray, corners: Int[np.ndarray, "N 2"]) -> None:
    """Copies square parts into an image; the first ones, and what of them is inside the image."""
    side = parts.shape[1]
    for part, (top, left) in zip(parts, corners, strict=False):
        target = whole[top : top + side, left : left + side]
        target[:] = part[: target.shape[0], : target.shape[1]]


@jax.jit
def render_in_turn(scene: SceneArrays, chosen: Tile, count: Int[Array, ""]) -> Maps:
    """The first `count` tiles, one after the other, so that each tries only its own solids."""

    def draw(i, maps: Maps) -> Maps:
        tile = jax.tree.map(lambda field: field[i], chosen)
        drawn = render_tile(scene, tile)
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), maps, drawn)

    shape = (len(chosen.corner), tiles.SIDE, tiles.SIDE)
    empty = Maps(jnp.zeros((*shape, 3), F), jnp.zeros(shape, F), jnp.zeros((*shape, 3), F))
    return jax.lax.fori_loop(0, count, draw, empty)


# All tiles at once, which keeps an accelerator busy.
render_together = jax.jit(jax.vmap(render_tile, in_axes=(None, 0)))


def take(
    camera: Camera, light: Float[np.ndarray, "H W 3"], workers: int = 1
) -> UInt8[np.ndarray, "H W 3"]:
    """The image that the camera takes of the light of a whole view."""
    height, width = light.shape[:2]
    margin = -(-max(reach(camera.blur, height), 1) // MARGIN) * MARGIN
    rows, columns = -(-height // develop.SIDE), -(-width // develop.SIDE)
    below, right = rows * develop.SIDE - height, columns * develop.SIDE - width
    padded = np.pad(light, [(margin, margin + below), (margin, margin + right), (0, 0)], "edge")
    corners = np.stack(np.divmod(np.arange(rows * columns), columns), 1) * develop.SIDE
    gain = F(camera.exposure / max(light[::4, ::4].mean(), 1e-3))
    size = np.array([height, width], np.int32)
    arrays = pack_camera(camera)
    padded_side = develop.SIDE + 2 * margin
    on_cpu = _on_cpu()
    calls = list(_calls(len(corners), BLOCKS_IN_TURN if on_cpu else BLOCKS_TOGETHER))

    def draw(call: tuple[np.ndarray, int]) -> np.ndarray:
        numbers, count = call
        parts = []
        for top, left in corners[numbers]:
            parts.append(padded[top : top + padded_side, left : left + padded_side])
        blocks = Block(
            number=numbers.astype(np.int32),
            corner=corners[numbers].astype(np.int32),
            light=np.stack(parts),
        )
        if on_cpu:
            return np.asarray(develop_in_turn(arrays, gain, size, blocks, count))
        return np.asarray(develop_together(arrays, gain, size, blocks))

    image = np.empty((height, width, 3), np.uint8)
    with ThreadPoolExecutor(workers) as pool:
        for (numbers, count), blocks in zip(calls, pool.map(draw, calls), strict=True):
            _paste(image, blocks, corners[numbers[:count]])
    return image


@jax.jit
def develop_in_turn(
    camera: CameraArrays,
    gain: Float[Array, ""],
    size: Int[Array, "2"],
    blocks: Block,
    count: Int[Array, ""],
) -> UInt8[Array, "N side side 3"]:
    """The first `count` blocks of an image, one after the other."""

    def draw(i, image):
        block = jax.tree.map(lambda field: field[i], blocks)
        return image.at[i].set(develop.develop(camera, gain, size, block))

    empty = jnp.zeros((len(blocks.number), develop.SIDE, develop.SIDE, 3), jnp.uint8)
    return jax.lax.fori_loop(0, count, draw, empty)


develop_together = jax.jit(jax.vmap(develop.develop, in_axes=(None, None, None, 0)))
