"""Images and coarse maps to refine, and images that could not be refined."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from etils.epath import Path

from urgt_jax.errors import NegativeResult, UserError, one_line, print_error, reason, require
from urgt_jax.files import make_folder, write_text
from urgt_jax.images.files import SUFFIXES
from urgt_jax.images.map_files import MAP_SUFFIXES
from urgt_jax.inference.outputs import ENDINGS, MASKS
from urgt_jax.remote import absolute

FAILED = "not_refined.txt"  # in the output folder
COARSE_ENDINGS = ("_coarse_depth", "_coarse_normal", "_coarse_mask", "_coarse_sky")


class ImageFile(NamedTuple):
    """An image to refine, and the folder of its results inside the output folder."""

    path: Path
    folder: str = ""


def find_images(
    paths: list[Path], recursive: bool = False, skip: Path | None = None
) -> list[ImageFile]:
    """Image files, with folders replaced by the images in them; hidden files are left out.

    With `recursive`, folders in them are searched too, except `skip`. Names in one folder must
    differ, since the names of the refined maps derive from them.
    """
    images: list[ImageFile] = []
    for path in paths:
        if path.is_dir():
            images += _images_in(path, recursive, skip)
        else:
            require(path.is_file(), f"no image at {path}")
            images.append(ImageFile(path))
    names = set()
    for image in images:
        name = (image.folder, image.path.stem)
        require(
            name not in names,
            f"two images are named {image.path.stem}: refine them into different folders",
        )
        names.add(name)
    return images


def _images_in(folder: Path, recursive: bool, skip: Path | None) -> list[ImageFile]:
    """The images in a folder, in order."""
    images = []
    folders = [(folder, "")]
    while folders:
        current, relative = folders.pop(0)
        for path in sorted(current.iterdir()):
            if path.name.startswith("."):  # macOS puts a ._photo.jpg next to each photo.jpg
                continue
            if path.is_dir():
                if recursive and (skip is None or absolute(path) != absolute(skip)):
                    folders.append((path, f"{relative}{path.name}/"))
            elif path.suffix.lower() in SUFFIXES and not _is_drawn_map(path):
                images.append(ImageFile(path, relative))
    hint = "" if recursive else ". Pass --recursive to search its subfolders"
    require(images, f"the folder {folder} contains no image ({', '.join(SUFFIXES)}){hint}")
    return images


def _is_drawn_map(path: Path) -> bool:
    """Whether an image is a picture that belongs to a refined image, or a coarse map."""
    if path.stem.endswith(COARSE_ENDINGS):
        return True
    for ending in (*ENDINGS["png"], *ENDINGS["png16"], *MASKS):
        name = path.name.removesuffix(ending)
        if name != path.name and path.suffix == ".png":
            siblings = [path.with_name(f"{name}_depth.npy"), path.with_name(f"{name}_depth16.json")]
            for suffix in SUFFIXES:  # of the image itself
                siblings.append(path.with_name(f"{name}{suffix}"))
                siblings.append(path.with_name(f"{name}{suffix.upper()}"))
            return any(sibling.is_file() for sibling in siblings)
    return False


def find_coarse_map(image: Path, kind: str) -> Path | None:
    """The coarse map next to an image, or None; `kind` is depth, normal, mask or sky.

    A .png next to a .npy of the same name is taken to be its picture, as `urgt refine` writes it.
    A UserError if there are several maps.
    """
    stem = f"{image.stem}_coarse_{kind}"
    paths = [image.with_name(f"{stem}{suffix}") for suffix in MAP_SUFFIXES]
    paths = [path for path in paths if path.is_file()]
    if any(path.suffix == ".npy" for path in paths):
        paths = [path for path in paths if path.suffix != ".png"]
    names = ", ".join(path.name for path in paths)
    require(
        len(paths) < 2,
        f"{image}: there are several coarse {kind} maps ({names}). Keep one of them",
    )
    return paths[0] if paths else None


class Failures:
    """Images that could not be refined: with several, the others are refined nonetheless."""

    def __init__(self, out: Path, count: int):
        self.path = out / FAILED
        self.count = count
        self.lines: list[str] = []

    @contextmanager
    def collecting(self, image: Path) -> Iterator[None]:
        """Print an error inside the block and go on, unless there is only one image."""
        try:
            yield
        except Exception as error:  # such as too little memory for one large image
            if self.count == 1:
                raise
            text = naming(image, reason(error))
            print_error(text)
            self.lines.append(text)

    def report(self) -> None:
        """Write the list; a NegativeResult that counts the failures, if there are any."""
        if not self.lines:
            self.path.unlink(missing_ok=True)  # the list of an earlier call
            return
        make_folder(self.path.parent)
        write_text(self.path, "".join(f"{line}\n" for line in self.lines))
        raise NegativeResult(
            f"{len(self.lines)} of {self.count} images were not refined (list: {self.path})"
        )


@contextmanager
def naming_image(path: Path) -> Iterator[None]:
    """Put the image's path before user errors, which otherwise say only what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(naming(path, str(error))) from error


def naming(path: Path, text: str) -> str:
    """The text of an error, which begins with the path unless it holds it."""
    name = one_line(str(path))  # as in errors
    return text if name in text else f"{name}: {text}"
