"""iBims-1."""

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float, Int

from urgt_jax.data.samples import WHOLE, Annotations, Sample, Window
from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES
from urgt_jax.data.sets.files import DepthCamera, check_choice, find_files, make_sample
from urgt_jax.errors import require
from urgt_jax.images.depth_formats import read_mat

SURFACES = ("wall", "table", "floor")  # whose planes are annotated
SMALLEST_PLANE = 0.05  # share of the image; smaller planes are not scored


class Ibims1:
    """The 100 images of iBims-1 (Koch et al., ECCV workshops 2018), from ibims1_core_mat."""

    default_split = ""
    train_split = ""

    def __init__(self, path: Path, split: str = ""):
        self.path = path
        check_choice(path, split)
        folder = path / "ibims1_core_mat"
        self.images = find_files(folder if folder.is_dir() else path, "*.mat")

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The name of the file."""
        return self.images[index].stem

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._read(index)["rgb"].shape[:2]

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of an image with its edges and planes. The whole file is read for it."""
        path = self.images[index]
        data = self._read(index)
        image = data["rgb"]
        size = image.shape[:2]
        known = np.ones(size, bool)
        for name in ("mask_invalid", "mask_transp"):
            known &= data[name] > 0
        depth = np.where(known, data["depth"], 0).astype(np.float32)
        calibration = numbers(path, data, "calib")
        require(
            calibration.shape == (3, 3)
            and bool(np.isfinite(calibration).all())
            and min(calibration[0, 0], calibration[1, 1]) > 0,
            f"{path}: calib has shape {calibration.shape}. It must be a camera matrix of 3 x 3 "
            "finite numbers",
        )
        # The matrix is transposed, and MATLAB's first pixel has the centre (1, 1).
        fx, fy = calibration[0, 0], calibration[1, 1]
        cx, cy = calibration[2, 0], calibration[2, 1]
        intrinsics = np.array([fx, fy, cx - 1, cy - 1]) + TO_HALF_PIXEL_CENTRES
        sample = make_sample(
            image, depth[window], DepthCamera(intrinsics), window, WHOLE, str(path)
        )
        planes, normals = annotated_planes(path, data, depth > 0)
        annotations = Annotations(
            edges=(data["edges"] > 0)[window], planes=planes[window], plane_normals=normals
        )
        return sample._replace(annotations=annotations)

    def _read(self, index: int) -> dict:
        """The arrays of a file, all maps with the size of the image."""
        path = self.images[index]
        data = read_mat(path).get("data")
        require(isinstance(data, dict), f"{path} has no structure `data`. Download it again")
        image = data.get("rgb")
        require(
            isinstance(image, np.ndarray) and image.ndim == 3 and image.dtype == np.uint8,
            f"{path} has no image `rgb`. Download it again",
        )
        size = image.shape[:2]
        maps = ["depth", "edges", "mask_invalid", "mask_transp"]
        maps += [f"mask_{surface}" for surface in SURFACES]
        for name in maps:
            values = data.get(name)
            require(
                isinstance(values, np.ndarray) and values.shape == size,
                f"{path}: {name} must be a map of {size}, the size of the image. Download it again",
            )
        return data


def numbers(path: Path, data: dict, name: str) -> Float[np.ndarray, "..."]:
    """The array of that name as float64; a user error if it is missing or text."""
    values = np.asarray(data.get(name, ""))
    require(
        values.dtype.kind in "biuf",
        f"{path}: {name} must be an array of numbers. Download it again",
    )
    return values.astype(np.float64)


def annotated_planes(
    path: Path, data: dict, known: Bool[np.ndarray, "H W"]
) -> tuple[Int[np.ndarray, "H W"], Float[np.ndarray, "N 3"]]:
    """The number of the plane at each pixel, and the planes' normals; small planes are left out."""
    planes = np.zeros(known.shape, np.int32)
    normals = []
    for surface in SURFACES:
        parameters = np.atleast_2d(numbers(path, data, f"mask_{surface}_paras"))
        if parameters.shape[1] < 7:  # there is no plane of this kind
            continue
        labels = data[f"mask_{surface}"]
        for number, row in enumerate(parameters, 1):
            pixels = (labels == number) & known
            if pixels.mean() < SMALLEST_PLANE:
                continue
            require(
                bool(np.isfinite(row[4:7]).all()),
                f"{path}: mask_{surface}_paras has no finite normal of plane {number}. Download it "
                "again",
            )
            # The files have x right, y forward, z up.
            x, forward, up = row[4:7]
            normals.append([x, -up, forward])
            planes[pixels] = len(normals)
    return planes, np.array(normals, np.float64).reshape(-1, 3)
