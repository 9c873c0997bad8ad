"""Weight files of tiny prior networks."""

import jax
import numpy as np
from etils.epath import Path

from urgt_jax.config import Vit
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.registry import abstract_params
from urgt_jax.weights.weight_file import save_weights

VIT = Vit(
    width=16, depth=1, num_heads=2, pretrain_size=42, registers=0, position_resampling="offset"
)
DEPTH_ANYTHING = DepthAnythingConfig(
    VIT, layers=(0, 0, 0, 0), features=8, channels=(8, 8, 8, 8), size=28
)
METRIC3D = Metric3DConfig(VIT, channels=(8, 16), hidden=8, iters=1, bins=8, input_size=(28, 56))


def save_random(path: Path, config: DepthAnythingConfig | Metric3DConfig, seed: int) -> Path:
    """Saves weights drawn from the seed, with kernels of unit gain, and returns the path."""
    rng = np.random.default_rng(seed)

    def draw(key_path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if len(leaf.shape) > 1:
            return noise / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        is_bias = jax.tree_util.keystr(key_path).endswith("bias']")
        return 0.1 * noise if is_bias else 0.1 * noise + 1

    save_weights(path, jax.tree_util.tree_map_with_path(draw, abstract_params(config)), config)
    return path


def save_both(folder: Path) -> dict[str, Path]:
    """Saves both networks and returns the options of `urgt priors` that use them."""
    return {
        "--depth-weights": save_random(folder / "depth.safetensors", DEPTH_ANYTHING, 0),
        "--normal-weights": save_random(folder / "normal.safetensors", METRIC3D, 0),
    }
