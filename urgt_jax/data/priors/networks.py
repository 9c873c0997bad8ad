"""Networks that predict coarse maps from an image alone: Depth Anything V2 and Metric3D v2."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from etils.epath import PathLike
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from urgt_jax.data.samples import WHOLE, Window
from urgt_jax.errors import require
from urgt_jax.images.resize import resize_corners
from urgt_jax.models import depth_anything, metric3d
from urgt_jax.models.precision import in_precision
from urgt_jax.models.registry import build_with_params
from urgt_jax.weights.weight_file import load_weights, locate_weights

Size = tuple[int, int]  # height and width, pixels


class NetworkInput(NamedTuple):
    """An image as a network takes it."""

    image: Float[np.ndarray, "1 h w 3"]
    window: Window = WHOLE  # where the image is in it; the rest is a border


@partial(jax.jit, static_argnames="network")
def run_network(params: dict, image: jax.Array, network) -> jax.Array | tuple[jax.Array, ...]:
    """The outputs of any network for prepared images; each shape is compiled once."""
    return in_precision("float32", build_with_params(network, params))(image)


class PriorNetwork:
    """A network with its weights on some devices, which process one image each.

    `prepare` an image, `run` the network on one or several, `finish` each map.
    """

    def __init__(self, path: PathLike, kind: str, devices: Sequence[jax.Device] | None):
        self.path = locate_weights(path)
        params, self.config = load_weights(path, kind)
        mesh = Mesh(np.array(devices or jax.local_devices()[:1]), ("data",))
        self.params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self.sharding = NamedSharding(mesh, PartitionSpec("data"))

    def run(self, inputs: list[NetworkInput]) -> list[np.ndarray]:
        """The maps of at most as many images as there are devices, at the network's own size.

        Maps are float32 [h, w] or [h, w, 3], without a border.
        """
        images = [item.image for item in inputs]
        # Every device gets an image, so that the last batch needs no program of its own.
        idle = self.sharding.mesh.size - len(images)
        images += [images[-1]] * idle
        batch = jax.device_put(np.concatenate(images), self.sharding)
        outputs = self.select(run_network(self.params, batch, self.config))
        outputs = jax.device_get(outputs)[: len(inputs)]
        maps = [output[item.window] for output, item in zip(outputs, inputs, strict=True)]
        finite = all(np.isfinite(values).all() for values in maps)
        require(finite, f"{self.path} predicts NaN: the weights are damaged")
        return maps

    def finish(
        self, values: Float[np.ndarray, "h w *C"], size: Size
    ) -> Float[np.ndarray, "H W *C"]:
        """A map at the image's size."""
        return resize_corners(values, *size)


class DepthNetwork(PriorNetwork):
    """Depth Anything V2: relative disparity."""

    def __init__(
        self,
        path: PathLike,
        size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        super().__init__(path, "depth_anything", devices)
        self.size = size or self.config.size  # shorter side of the network's input, pixels

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
        """Relative disparity in [0, 1]; images of one aspect share a compiled program."""
        [disparity] = self.run([self.prepare(image)])
        disparity = self.finish(disparity, image.shape[:2])
        low = disparity.min()
        high = disparity.max()
        return (disparity - low) / (high - low + np.float32(1e-8))

    def input_size(self, size: Size) -> Size:
        """The size of the network's input for an image of that size: nothing is padded."""
        return depth_anything.input_size(*size, self.size)

    def prepare(self, image: UInt8[np.ndarray, "H W 3"]) -> NetworkInput:
        """The image resized and normalised."""
        return NetworkInput(depth_anything.prepare(image, self.size))

    def select(self, outputs: jax.Array) -> Float[jax.Array, "B h w"]:
        """The only output."""
        return outputs


class NormalNetwork(PriorNetwork):
    """Metric3D v2: surface normals."""

    def __init__(self, path: PathLike, devices: Sequence[jax.Device] | None = None):
        super().__init__(path, "metric3d", devices)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
        """Normals towards the camera, not of unit length; all images share one program."""
        [normal] = self.run([self.prepare(image)])
        return self.finish(normal, image.shape[:2])

    def input_size(self, size: Size) -> Size:
        """The size of the network's input, the same for all images."""
        return self.config.input_size

    def prepare(self, image: UInt8[np.ndarray, "H W 3"]) -> NetworkInput:
        """The image fitted into the network's input, with a border, and normalised."""
        padded, window = metric3d.prepare(image, self.config.input_size)
        return NetworkInput(padded, window)

    def select(self, outputs: tuple[jax.Array, ...]) -> Float[jax.Array, "B h w 3"]:
        """The normals among depth, confidence, and normals with their concentration."""
        return outputs[-1][..., :3]
