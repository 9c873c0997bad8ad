"""Data sets of tensorflow-datasets, an optional dependency: what they return, opening one."""

import os
from typing import Any, Protocol, runtime_checkable

from etils.epath import Path

from urgt_jax.errors import import_extra, require
from urgt_jax.files import inside, read_json_object

# The classes that the data sets of this package are described with. TFDS imports whatever module
# the description names, which would run the code of whoever wrote it.
FEATURES = (
    "features_dict.FeaturesDict",
    "image_feature.Image",
    "scalar.Scalar",
    "tensor_feature.Tensor",
    "text_feature.Text",
)
ALLOWED = {f"tensorflow_datasets.core.features.{name}" for name in FEATURES}


@runtime_checkable
class Records(Protocol):
    """The records of a split, as TFDS reads them from ArrayRecord files."""

    def __len__(self) -> int:
        """The number of records."""

    def __getitem__(self, index: int) -> dict:
        """One record, by the names of its features."""


def open_builder(folder: Path) -> Any:
    """The TFDS builder of a prepared data set; fails before TFDS could import unknown code."""
    tfds = import_extra("tensorflow_datasets", "data")
    path = folder / "features.json"
    unknown = named_classes(read_json_object(path)) - ALLOWED
    require(
        not unknown,
        f"{path} names classes that no data set of this package has: {sorted(unknown)!r}",
    )
    builder = tfds.builder_from_directory(str(folder))
    for split in builder.info.splits.values():
        for file in split.filepaths:
            # The description has a template for the names of its files.
            inside(folder, os.path.relpath(os.path.abspath(file), os.path.abspath(folder)))
    return builder


def named_classes(description: object) -> set[str]:
    """The Python classes that a description of features names, wherever they stand in it."""
    names = set()
    if isinstance(description, dict):
        for key, value in description.items():
            # The second key is that of TFDS before version 4.4, which could import a protobuf too.
            if key in ("pythonClassName", "type", "proto_cls"):
                names.add(str(value))
            names |= named_classes(value)
    if isinstance(description, list):
        for value in description:
            names |= named_classes(value)
    return names
