"""Weights drawn from a seed and their official names, so that fixtures need not hold them."""

import json
import math
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENS = ("cls_token", "pos_embed", "register_tokens", "mask_token", "camera_token",
          "register_token")  # fmt: skip
# Transposed convolutions, whose first axis counts inputs.
TRANSPOSED = ("read_1.sample.", "resize_layers.0.", "resize_layers.1.")


def draw(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One official tensor: kernels of unit gain, scales about 1, small biases."""
    key = key.replace(".norm3.", ".downsample.1.")  # two names of one tensor
    normal = np.random.default_rng([seed, zlib.crc32(key.encode())])
    z = normal.standard_normal(shape, dtype=np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf in TOKENS:
        return 0.5 * z
    if leaf == "gamma":
        return 0.75 + 0.1 * z
    if leaf == "bias":
        return 0.1 * z
    if len(shape) == 1:
        return 1.0 + 0.2 * z
    transposed = len(shape) == 4 and any(t in key for t in TRANSPOSED)
    inputs = shape[0] if transposed else math.prod(shape[1:])
    return z * np.float32(1.0 / np.sqrt(inputs))


def state(fixture, model: str = "") -> dict[str, np.ndarray]:
    """The official state dict of a fixture: drawn, except for what it holds under `sd/`."""
    recipe = json.loads(str(fixture[f"{model}recipe"]))
    made = {}
    for key, shape in recipe["shapes"].items():
        kept = f"{model}sd/{key}"
        changed = kept in fixture.files
        made[key] = fixture[kept] if changed else draw(key, tuple(shape), recipe["seed"])
    total = [sum(float(f(v).sum(dtype=np.float64)) for v in made.values()) for f in (np.array, abs)]
    # Another numpy may draw other numbers; then parity would fail in confusing ways.
    np.testing.assert_allclose(total, fixture[f"{model}checksum"], rtol=1e-9)
    return made


def settings(fixture) -> dict:
    """The sizes with which the released code made a fixture, under its own names."""
    return json.loads(str(fixture["config"]))
