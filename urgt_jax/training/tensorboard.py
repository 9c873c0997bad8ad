"""A run's numbers and pictures for TensorBoard, beside metrics.jsonl."""

from pathlib import Path

import numpy as np
from jaxtyping import Array, Float

from urgt_jax.errors import UserError
from urgt_jax.images.colour import RGB, colour_normal, colour_values
from urgt_jax.images.geometry import unit_normals


class TensorBoardWriter:
    """Event files in the work directory's folder `tensorboard`; later steps of a killed run go."""

    def __init__(self, workdir: Path, step: int, writes: bool = True):
        self.file = None
        if writes:
            self.file = writer()(str(workdir / "tensorboard"), purge_step=step + 1, flush_secs=20)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """A point of every curve."""
        if self.file is None:
            return
        for name, value in values.items():
            self.file.add_scalar(name, value, step)

    def pictures(self, step: int, maps: dict[str, Float[Array, "H W ..."]]) -> None:
        """The maps of one picture as a strip of depth and a strip of normals."""
        if self.file is None:
            return
        maps = {name: np.asarray(x) for name, x in maps.items()}
        for name, picture in strips(maps).items():
            self.file.add_image(f"pictures/{name}", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Waits until all is on disk."""
        if self.file is not None:
            self.file.close()


def strips(maps: dict[str, Float[np.ndarray, "H W ..."]]) -> dict[str, RGB]:
    """Picture, coarse, refined and true map side by side; what is unknown is grey."""
    image, sides = maps["image"].astype(np.uint8), ("coarse", "refined", "true")
    found = {}
    if "true_depth" in maps:
        known = maps["true_depth"][maps["valid"]]
        limits = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
        depths = [colour_values(maps[f"{side}_depth"], *map(float, limits)) for side in sides]
        found["depth"] = _strip(image, depths, maps["valid"])
    if "true_normal" in maps:
        normals = [colour_normal(unit_normals(maps[f"{side}_normal"])) for side in sides]
        found["normal"] = _strip(image, normals, maps["normal_valid"])
    return found


def _strip(image: RGB, pictures: list[RGB], known: np.ndarray) -> RGB:
    *others, true = pictures
    return np.concatenate([image, *others, np.where(known[..., None], true, np.uint8(128))], 1)


def writer() -> type:
    """What writes event files; fails where it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "train.tensorboard needs tensorboardX: pip install tensorboardX, or leave it away"
        ) from error
    return SummaryWriter
