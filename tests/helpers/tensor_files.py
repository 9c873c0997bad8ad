"""What a file of tensors must hold."""

import numpy as np
from etils.epath import Path

from urgt_jax.weights.tensor_files import open_tensors


def assert_holds(path: Path, arrays: dict) -> None:
    """The file holds these arrays, bit for bit."""
    tensors = open_tensors(path).tensors
    assert set(tensors) == set(arrays)
    for name, expected in arrays.items():
        tensor = tensors[name]
        array = tensor.read()
        assert type(array) is np.ndarray and array.flags.c_contiguous and array.flags.writeable
        assert (tensor.shape, tensor.dtype) == (expected.shape, expected.dtype)
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        assert array.tobytes() == expected.tobytes(), name
