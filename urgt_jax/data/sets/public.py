"""Public data sets with measured depth, read from the files their authors give."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from urgt_jax.data.samples import WHOLE, Sample, Source, Window
from urgt_jax.data.sets.cameras import calibration, colmap_camera, matrix, opencv_xml
from urgt_jax.data.sets.files import (
    DepthCamera,
    FileDataSet,
    ImageFiles,
    find_files,
    make_sample,
    reject_split,
)
from urgt_jax.data.sets.folder import Folder
from urgt_jax.errors import UserError, require
from urgt_jax.images.depth_formats import open_npy, open_pfm, open_raw32, read_png16, read_words

# From pixel centres at integers, as OpenCV and MATLAB have them, to pixel centres at one half.
CENTRED = np.array([0, 0, 0.5, 0.5])
# Rows and columns that are scored, as shares of the picture: what Garg et al. keep of KITTI.
GARG = ((0.40810811, 0.99189189), (0.03594771, 0.96405229))
PREPARE = (
    "where tensorflow and h5py are installed, run `tfds build nyu_depth_v2 "
    "--file_format=array_record`, then give the data_dir it wrote to"
)


class Middlebury2014(FileDataSet):
    """The left pictures of Middlebury Stereo 2014 (Scharstein et al., GCPR 2014)."""

    disparity = True

    def _items(self) -> list[ImageFiles]:
        reject_split("middlebury2014", self.split)
        return [
            ImageFiles(p.parent.name, p, p.with_name("disp0.pfm"), p.with_name("calib.txt"))
            for p in find_files(self.path, "*/im0.png")
        ]

    def _values(self, item: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_pfm(item.depth)

    def _camera(self, item: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        told = calibration(item.camera)
        camera, millimetres = told.camera("cam0"), told.positive("baseline")
        offset = float(told.numbers("doffs", 1)[0])
        return DepthCamera(camera + CENTRED, float(camera[0] * millimetres / 1000), offset)


class Booster(FileDataSet):
    """The left pictures of Booster's training scenes (Zama Ramirez et al., CVPR 2022)."""

    disparity = True

    def _items(self) -> list[ImageFiles]:
        reject_split("booster", self.split)
        items = []
        for image in find_files(self.path, "train/balanced/*/camera_00/*.png"):
            scene = image.parents[1]
            files = scene / "disp_00.npy", scene / "calib_00-02.xml"
            items.append(ImageFiles(f"{scene.name}_{image.stem}", image, *files))
        return items

    def _values(self, item: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_npy(item.depth)

    def _camera(self, item: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        told = opencv_xml(item.camera)
        # Pictures are rectified: their camera is the projection, not mtxL, which took them.
        camera, millimetres = told.camera("proj_matL", 4), told.positive("baselineLR")
        return DepthCamera(camera + CENTRED, float(camera[0] * millimetres / 1000))


class Eth3d(FileDataSet):
    """The training scenes of ETH3D's high-resolution multi-view set (Schöps et al., CVPR 2017)."""

    def _items(self) -> list[ImageFiles]:
        reject_split("eth3d", self.split)
        items = []
        for image in find_files(self.path, "*/images/dslr_images/*.JPG"):
            scene = image.parents[2]
            depth = scene / "ground_truth_depth/dslr_images" / image.name
            camera = scene / "dslr_calibration_jpg/cameras.txt"
            items.append(ImageFiles(f"{scene.name}_{image.stem}", image, depth, camera))
        return items

    def _values(self, item: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_raw32(item.depth, size)

    def _camera(self, item: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        camera = colmap_camera(item.camera.parent, f"dslr_images/{item.image.name}")
        require(
            camera.size == size,
            f"{item.image} is {size[0]} x {size[1]}, but {item.camera} says {camera.size[0]} x "
            f"{camera.size[1]}: take pictures and cameras from one dslr_jpg archive",
        )
        return DepthCamera(camera.intrinsics)  # COLMAP's pixel centres lie at one half


class Kitti(FileDataSet):
    """KITTI's depth prediction set (Uhrig et al., 3DV 2017), 1000 pictures, or Eigen's split."""

    SELECTION, EIGEN = "val_selection_cropped", "eigen"
    LIST = "eigen_test_files_with_gt.txt"

    def _items(self) -> list[ImageFiles]:
        self.split = self.split or self.SELECTION
        if self.split == self.EIGEN:
            return self._eigen()
        require(
            self.split == self.SELECTION,
            f"kitti has the splits {self.SELECTION} and {self.EIGEN}, not {self.split}",
        )
        items = []
        for image in find_files(self.path, f"depth_selection/{self.SELECTION}/image/*.png"):
            root, truth = image.parents[1], image.name.replace("_image_", "_groundtruth_depth_", 1)
            camera = root / f"intrinsics/{image.stem}.txt"
            items.append(ImageFiles(image.stem, image, root / "groundtruth_depth" / truth, camera))
        return items

    def _eigen(self) -> list[ImageFiles]:
        """The pictures of the list that have depth: 652 of the 697."""
        listed, items = self.path / self.LIST, []
        for line in read_words(listed, "list of pictures"):
            require(len(line) >= 2, f"{listed}: a line must be PICTURE DEPTH FOCAL")
            if line[1] == "None":
                continue
            image, drive = self.path / line[0], line[1].split("/")[0]
            depth = self.path / "train" / line[1]
            if not depth.exists():
                depth = self.path / "val" / line[1]
            camera = image.parents[3] / "calib_cam_to_cam.txt"
            items.append(ImageFiles(f"{drive}_{image.stem}", image, depth, camera))
        require(bool(items), f"{listed} lists no picture with depth")
        return items

    def _values(self, item: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return read_png16(item.depth) / np.float32(256)

    def _camera(self, item: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        if self.split == self.SELECTION:
            return DepthCamera(matrix(item.camera, "the matrix").camera("the matrix") + CENTRED)
        told = calibration(item.camera)
        left, right = (told.numbers(f"P_rect_0{i}", 12)[3] for i in (2, 3))
        return DepthCamera(told.camera("P_rect_02", 4) + CENTRED, float(left - right))

    def _scored(self, size: tuple[int, int]) -> Window:
        if self.split == self.SELECTION:
            return WHOLE
        return tuple(
            slice(*(int(n * share) for share in part)) for n, part in zip(size, GARG, strict=True)
        )


class Nyu:
    """NYU Depth v2 as TFDS has it: the split `validation`, the usual 654 pictures, or `train`."""

    SIZE = (480, 640)
    # The colour camera of the Kinect, from the authors' toolbox.
    CAMERA = DepthCamera(np.array([518.86, 519.47, 325.58, 253.74]) + CENTRED)
    # What Eigen et al. keep: farther out the picture is blank and depth is made up.
    SCORED = (slice(45, 471), slice(41, 601))

    def __init__(self, path: Path, split: str = ""):
        self.path, self.split = path, split or "validation"
        self.records = _records(path, self.split)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The split and the number."""
        return f"{self.split}_{index:05}"

    def size(self, index: int) -> tuple[int, int]:
        """The same for all."""
        return self.SIZE

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """The window of a picture, which must be decoded whole."""
        source = f"{self.path}: picture {index} of {self.split}"
        try:
            record = self.records[index]
            image = np.asarray(Image.open(io.BytesIO(record["image"])).convert("RGB"))
        except (OSError, ValueError, RuntimeError, SyntaxError) as error:
            raise UserError(f"{source} cannot be read, prepare it again: {error}") from error
        depth = record["depth"]
        require(
            image.shape[:2] == depth.shape == self.SIZE,
            f"{source} has the sizes {image.shape[:2]} and {depth.shape}, not {self.SIZE}: "
            "prepare it as TFDS does",
        )
        depth = depth[window].astype(np.float32)
        return make_sample(image, depth, self.CAMERA, window, self.SCORED, source)


def _records(path: Path, split: str) -> Sequence[dict]:
    """The examples of a split of nyu_depth_v2, prepared in a folder of TFDS or in its own."""
    import tensorflow_datasets as tfds  # takes a second, which no other set needs to wait for

    places = [path, *sorted(path.glob("nyu_depth_v2/*"))]
    place = next((p for p in reversed(places) if (p / "dataset_info.json").is_file()), None)
    require(place is not None, f"no nyu_depth_v2/*/dataset_info.json in {path}: {PREPARE}")
    try:
        builder = tfds.builder_from_directory(place)
    except Exception as error:  # also protobuf's own, where the description is damaged
        raise UserError(f"{place} cannot be read by TFDS, {PREPARE}: {error}") from error
    kept, splits = builder.info.file_format.value, builder.info.splits
    require(kept == "array_record", f"{place} is stored as {kept}: {PREPARE}")
    require(split in splits, f"nyu_depth_v2 has the splits {', '.join(splits)}, not {split}")
    # Encoded pictures, since TFDS would decode them with whatever library it finds.
    return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})


DATA_SETS: dict[str, type[Source]] = {
    "folder": Folder,
    "middlebury2014": Middlebury2014,
    "booster": Booster,
    "eth3d": Eth3d,
    "kitti": Kitti,
    "nyu_depth_v2": Nyu,
}
