"""What tensorflow-datasets, an optional dependency, is expected to return."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Records(Protocol):
    """The records of a split, as TFDS reads them from ArrayRecord files."""

    def __len__(self) -> int:
        """The number of records."""

    def __getitem__(self, index: int) -> dict:
        """One record, by the names of its features."""
