"""Official weights drawn from a seed and their names, so that golden files need not hold them."""

import gzip
import json
import math
import zlib

import numpy as np
from etils.epath import Path

GOLDEN = Path(__file__).parents[1] / "golden"
# The names and shapes of the tensors of published models.
OFFICIAL_SHAPES = json.loads(gzip.decompress((GOLDEN / "official_names.json.gz").read_bytes()))
TOKENS = (
    "cls_token",
    "pos_embed",
    "register_tokens",
    "mask_token",
    "camera_token",
    "register_token",
)
# Transposed convolutions, whose first axis counts input channels.
TRANSPOSED = ("read_1.sample.", "resize_layers.0.", "resize_layers.1.")


def draw(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """An official tensor: kernels of unit gain, scales near 1, and small biases."""
    key = key.replace(".norm3.", ".downsample.1.")  # two names of one tensor
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    z = rng.standard_normal(shape, dtype=np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf in TOKENS:
        return 0.5 * z
    if leaf == "gamma":
        return 0.75 + 0.1 * z
    if leaf == "bias":
        return 0.1 * z
    if len(shape) == 1:
        return 1.0 + 0.2 * z
    if len(shape) == 4 and any(part in key for part in TRANSPOSED):
        inputs = shape[0]
    else:
        inputs = math.prod(shape[1:])
    return z * np.float32(1.0 / np.sqrt(inputs))


def state(golden, model: str = "") -> dict[str, np.ndarray]:
    """The official state dict of a golden file: drawn, except for what the file holds in `sd/`.

    `model` is the prefix of one of several models in the file.
    """
    recipe = json.loads(str(golden[f"{model}recipe"]))
    tensors = {}
    for key, shape in recipe["shapes"].items():
        stored = f"{model}sd/{key}"
        if stored in golden.files:
            tensors[key] = golden[stored]
        else:
            tensors[key] = draw(key, tuple(shape), recipe["seed"])
    # Another numpy may draw other numbers; then parity would fail in confusing ways.
    total = sum(float(x.sum(dtype=np.float64)) for x in tensors.values())
    total_magnitude = sum(float(np.abs(x).sum(dtype=np.float64)) for x in tensors.values())
    np.testing.assert_allclose([total, total_magnitude], golden[f"{model}checksum"], rtol=1e-9)
    return tensors


def settings(golden) -> dict:
    """The sizes that the released code was run with, under its own names."""
    return json.loads(str(golden["config"]))
