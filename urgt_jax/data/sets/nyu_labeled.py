"""NYU Depth v2, the labelled images as the authors publish them."""

import numpy as np
from etils.epath import Path
from jaxtyping import Int

from urgt_jax.data.samples import WHOLE, Sample, Window
from urgt_jax.data.sets.files import check_choice, make_sample
from urgt_jax.data.sets.nyu_depth_v2 import CAMERA, SCORED, SIZE
from urgt_jax.errors import require
from urgt_jax.images.depth_formats import read_hdf5, read_mat

IMAGES = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"
DEPTHS = {"test": "rawDepths", "test_filled": "depths"}


class NyuLabeled:
    """The usual 654 images of NYU Depth v2 (Silberman et al., ECCV 2012).

    `test` has the depth that the sensor measured, which BTS, Marigold and Metric3D score;
    `test_filled` has the authors' filled depth, as TFDS does.
    """

    default_split = "test"
    train_split = ""
    usual_max_depth = 10.0

    def __init__(self, path: Path, split: str = ""):
        self.path = path
        self.split = split or self.default_split
        check_choice(path, self.split, DEPTHS)
        for name in (IMAGES, SPLITS):
            require((path / name).is_file(), f"{path / name} is missing. Download it")
        self.numbers = read_test_numbers(path / SPLITS)

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        """The number of the image among the labelled ones, from 1."""
        return f"{self.numbers[index]:04}"

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, the same for all."""
        return SIZE

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of an image. The whole image is read for it."""
        path = self.path / IMAGES
        number = int(self.numbers[index]) - 1
        image = self._part("images", number, (3, *SIZE[::-1]), "u").transpose(2, 1, 0)
        depth = self._part(DEPTHS[self.split], number, SIZE[::-1], "f").T
        source = f"{path}: image {number + 1}"
        return make_sample(
            np.ascontiguousarray(image).astype(np.uint8),
            depth[window].astype(np.float32),
            CAMERA,
            window,
            SCORED,
            source,
        )

    def _part(self, name: str, number: int, shape: tuple[int, ...], dtype_kind: str) -> np.ndarray:
        """One image or map, with the axes of MATLAB; its dtype is numpy's kind `u` or `f`."""
        path = self.path / IMAGES
        values = read_hdf5(path, name, number)
        require(
            values.shape == shape and values.dtype.kind == dtype_kind,
            f"{path}: {name} of image {number + 1} has shape {values.shape} and dtype "
            f"{values.dtype}, not {shape} and uint8 or float32. Download it again",
        )
        return values


def read_test_numbers(path: Path) -> Int[np.ndarray, "N"]:
    """The numbers of the test images, from 1."""
    numbers = np.asarray(read_mat(path).get("testNdxs", []))
    require(
        numbers.size > 0 and numbers.dtype.kind in "iu" and numbers.min() > 0,
        f"{path} has no testNdxs, the numbers of the test images. Download it again",
    )
    return numbers.ravel().astype(np.int64)
