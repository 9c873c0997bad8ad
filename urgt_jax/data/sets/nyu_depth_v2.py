"""NYU Depth v2, as prepared by TFDS."""

import io

import numpy as np
from etils.epath import Path
from PIL import Image

from urgt_jax.data.samples import WHOLE, Sample, Window
from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES
from urgt_jax.data.sets.files import DepthCamera, make_sample
from urgt_jax.data.tfds import Records, open_builder
from urgt_jax.errors import UserError, import_extra, require
from urgt_jax.files import find_paths

SIZE = (480, 640)
# The colour camera of the Kinect, from the authors' toolbox.
CAMERA = DepthCamera(np.array([518.86, 519.47, 325.58, 253.74]) + TO_HALF_PIXEL_CENTRES)
# The crop of Eigen et al. (NIPS 2014): outside of it images are blank and depth is made up.
SCORED = (slice(45, 471), slice(41, 601))
HOW_TO_PREPARE = (
    "Where tensorflow and h5py are installed, run `tfds build nyu_depth_v2 "
    "--file_format=array_record`, then pass its data_dir"
)


class NyuDepthV2:
    """NYU Depth v2 (Silberman et al., ECCV 2012): the usual 654 images, or the split `train`."""

    default_split = "validation"
    train_split = "train"
    usual_max_depth = 10.0

    def __init__(self, path: Path, split: str = ""):
        self.path = path
        self.split = split or self.default_split
        self.records = open_records(path, self.split)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The split and the number."""
        return f"{self.split}_{index:05}"

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, the same for all."""
        return SIZE

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of an image. The whole image is decoded for it."""
        source = f"{self.path}: image {index} of {self.split}"
        try:
            record = self.records[index]
            file = Image.open(io.BytesIO(record["image"]), formats=["PNG"])
            image = np.asarray(file.convert("RGB"))
        except (OSError, ValueError, RuntimeError, SyntaxError) as error:
            raise UserError(f"{source} cannot be read. Prepare it again: {error}") from error
        depth = record["depth"]
        require(
            image.shape[:2] == depth.shape == SIZE,
            f"{source} has the sizes {image.shape[:2]} and {depth.shape}, not {SIZE}. Prepare it "
            "with TFDS",
        )
        return make_sample(image, depth[window].astype(np.float32), CAMERA, window, SCORED, source)


def open_records(path: Path, split: str) -> Records:
    """The records of a split. `path` is a data_dir of TFDS, or the data set's own folder in it."""
    tfds = import_extra("tensorflow_datasets", "data")
    folder = None
    for candidate in [path, *find_paths(path, "nyu_depth_v2/*")]:  # the latest version wins
        if (candidate / "dataset_info.json").is_file():
            folder = candidate
    require(folder is not None, f"{path} has no nyu_depth_v2/*/dataset_info.json. {HOW_TO_PREPARE}")
    try:
        builder = open_builder(folder)
    except UserError:
        raise
    except Exception as error:  # a damaged description also raises errors of protobuf
        raise UserError(f"{folder} cannot be read by TFDS ({error}). {HOW_TO_PREPARE}") from error
    file_format = builder.info.file_format.value
    require(
        file_format == "array_record",
        f"{folder} is stored as {file_format}, not array_record. {HOW_TO_PREPARE}",
    )
    splits = builder.info.splits
    require(split in splits, f"nyu_depth_v2 has no split {split!r}. It has {', '.join(splits)}")
    # TFDS would decode images with whatever library is installed, so decode them in `read`.
    return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
