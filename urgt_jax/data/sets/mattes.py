"""Images with mattes of their foreground: DIS-5K, AM-2K and others of their form."""

from etils.epath import Path

from urgt_jax.data.samples import WHOLE, Annotations, Sample, Window
from urgt_jax.data.sets.files import (
    check_choice,
    check_files,
    check_names,
    find_files,
    sample_without_depth,
)
from urgt_jax.errors import require
from urgt_jax.images.files import SUFFIXES, image_size, read_image

# Folders of images and of mattes: DIS-5K, AM-2K and P3M-10K.
FOLDERS = {"im": "gt", "original": "mask", "original_image": "mask"}
FOREGROUND = 0.1  # smallest share of the foreground, as in Depth Pro


class Mattes:
    """Images in `im` with mattes of the same names in `gt` (DIS-5K), or `original` and `mask`."""

    default_split = ""
    train_split = ""

    def __init__(self, path: Path, split: str = ""):
        self.path = path
        check_choice(path, split)
        folders = [name for name in FOLDERS if (path / name).is_dir()]
        expected = ", or ".join(f"{image} and {matte}" for image, matte in FOLDERS.items())
        require(len(folders) == 1, f"{path} must hold one pair of the folders {expected}")
        files = find_files(path, f"{folders[0]}/*")
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        check_names(images)
        mattes = path / FOLDERS[folders[0]]
        self.images = [(image, mattes / f"{image.stem}.png") for image in images]
        require(len(images) > 0, f"{path / folders[0]} holds no image ({', '.join(SUFFIXES)})")
        check_files(matte for _, matte in self.images)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The name of the file."""
        return self.images[index][0].stem

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        return image_size(self.images[index][0])

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of an image; its depth is unknown everywhere."""
        path, matte_path = self.images[index]
        image = read_image(path)
        matte = read_image(matte_path)[..., 0]
        require(
            matte.shape == image.shape[:2],
            f"{matte_path} has shape {matte.shape}, but its image has {image.shape[:2]}. A matte "
            "must have the size of its image",
        )
        foreground = matte > FOREGROUND * 255
        require(
            bool(foreground.any()) and not foreground.all(),
            f"{matte_path} has no boundary: it is all foreground or all background. Download it "
            "again",
        )
        annotations = Annotations(matte=foreground[window])
        return sample_without_depth(image, window)._replace(annotations=annotations)
