"""tensorflow-datasets, an optional dependency that takes a second to import."""

from types import ModuleType
from typing import Protocol, runtime_checkable

from urgt_jax.errors import UserError


@runtime_checkable
class Records(Protocol):
    """The records of a split, as TFDS reads them from ArrayRecord files."""

    def __len__(self) -> int:
        """The number of records."""

    def __getitem__(self, index: int) -> dict:
        """One record, by the names of its features."""


def import_tfds() -> ModuleType:
    """The module tensorflow_datasets; a user error where it is not installed."""
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_datasets":
            raise
        raise UserError(
            'this data set needs tensorflow-datasets. Run: pip install "urgt-jax[data]"'
        ) from error
    return tensorflow_datasets
