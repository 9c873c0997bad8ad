"""Tensors of a file that has not been read yet, and the checks that all file formats share."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from etils.epath import Path

from urgt_jax import errors
from urgt_jax.errors import UserError

# The number types that weights may have, by their names in safetensors.
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
MAX_DIMENSIONS = 32
MAX_SIZE = 1 << 58  # elements or bytes, far more than a file can hold


class Tensor(NamedTuple):
    """One tensor of a file; reading it loads this tensor only."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    # Reads one entry of the first axis. Only tensors of safetensors files have it.
    read_entry: Callable[[int], np.ndarray] | None = None


def tensor_of(array: np.ndarray) -> Tensor:
    """The tensor of an array in memory."""
    return Tensor(array.shape, array.dtype, read=lambda: array)


class TensorFile(NamedTuple):
    """The tensors of a file by name, and its text metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def damaged_file_error(path: Path, reason: str) -> UserError:
    """The error for a file whose content is wrong."""
    return UserError(f"{path} is damaged or truncated: {reason}. Download or write it again.")


def short_text(text: str) -> str:
    """At most 100 letters of a text from a file, safe to print on a terminal."""
    return errors.printable(text[:100]) or "(no name)"


def find_dtype(path: Path, name: str, type_name: str, table: Mapping[str, np.dtype]) -> np.dtype:
    """Looks up the number type of a tensor; raises UserError if it is not supported."""
    if type_name in table:
        return table[type_name]
    supported = ", ".join(str(dtype) for dtype in DTYPES.values())
    raise UserError(
        f"{short_text(name)} in {path} has the type {short_text(type_name)}. "
        f"Supported types: {supported}."
    )


def are_sizes(numbers: Any) -> bool:
    """Whether this is a list or tuple of non-negative integers of a plausible size."""
    if not isinstance(numbers, list | tuple):
        return False
    return all(type(number) is int and 0 <= number < MAX_SIZE for number in numbers)


def is_shape(shape: Any) -> bool:
    """Whether numpy can make an array of this shape."""
    if not are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        return False
    # numpy checks the product of all other sides even if one of them is 0.
    return math.prod(side for side in shape if side > 0) < MAX_SIZE
