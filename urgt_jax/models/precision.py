"""What a model's dtype means for matrix products, convolutions and stored weights."""

from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp
import numpy as np

from urgt_jax.config import Model

# JAX's name for the precision of float32 products, by model.dtype. Its default would be TF32 on
# GPUs and bfloat16 on TPUs. With bfloat16, the few products of float32 arrays keep that default.
PRECISIONS = {"float32": "highest", "tensorfloat32": "tensorfloat32"}


def in_precision(dtype: str, function: Callable) -> Callable:
    """The function, traced so that its products have the precision of a model's dtype."""
    if dtype not in PRECISIONS:
        return function

    @wraps(function)
    def run(*args, **kwargs):
        with jax.default_matmul_precision(PRECISIONS[dtype]):
            return function(*args, **kwargs)

    return run


def cast_weights(params: dict, model: Model) -> dict:
    """The parameters with each kernel and its bias in the dtype of its product.

    The forward pass would cast them all the same, so that its result has the same bits.
    """

    def cast(path: tuple, x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        return x.astype(jnp.dtype(weight_dtype(path, model)))

    return jax.tree_util.tree_map_with_path(cast, params)


def weight_dtype(path: tuple, model: Model) -> str:
    """The dtype in which the forward pass uses the parameter at this path of the tree."""
    names = [str(entry.key) for entry in path]
    name = names[-1]
    parent = names[-2] if len(names) > 1 else ""  # a parameter of the model itself has none
    if name not in ("kernel", "bias") or "norm" in parent:
        return "float32"
    if parent == "last":  # layer of a DPT head
        return "float32"
    return model.dtypes.heads if names[0].endswith("_head") else model.dtypes.products
