"""TensorBoard event files, beside metrics.jsonl."""

import numpy as np
from etils.epath import Path
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from urgt_jax.errors import UserError
from urgt_jax.images.colour import RGB, colour_normal, colour_values
from urgt_jax.images.geometry import unit_normals
from urgt_jax.remote import Stage, is_remote

SIDES = ("coarse", "refined", "true")
Strip = UInt8[np.ndarray, "H S 3"]  # four maps side by side
GREY = np.uint8(128)  # where a true map has no value


class TensorBoardWriter:
    """Writes event files to the folder `tensorboard` of the work directory.

    When a run is resumed at `step`, the events of later steps are removed. Only one process of a
    run writes.
    """

    def __init__(self, workdir: Path, step: int, writes: bool = True):
        self.writer = None
        self.stage = Stage(workdir / "tensorboard")
        if writes:
            folder = str(self.stage.local)
            self.writer = summary_writer()(folder, purge_step=step + 1, flush_secs=20)

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Add a point to the curve of every value."""
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if is_remote(self.stage.folder):
            self.writer.flush()
            self.stage.upload()

    def write_maps(self, step: int, maps: dict[str, Shaped[Array, "H W ..."]]) -> None:
        """Add the strips of an image's maps."""
        if self.writer is None:
            return
        arrays = {name: np.asarray(x) for name, x in maps.items()}
        for name, strip in draw_strips(arrays).items():
            self.writer.add_image(f"images/{name}", strip, step, dataformats="HWC")

    def close(self) -> None:
        """Wait until everything is on disk."""
        if self.writer is not None:
            self.writer.close()
            self.stage.upload()


def draw_strips(maps: dict[str, Shaped[np.ndarray, "H W ..."]]) -> dict[str, Strip]:
    """Image, coarse, refined and true map side by side, for depth and for normals.

    Depth has one colour scale for all three maps. True maps are grey where they have no value.
    """
    image = maps["image"].astype(np.uint8)
    strips = {}
    if "true_depth" in maps:
        low, high = _depth_limits(maps["true_depth"], maps["valid"])
        pictures = [colour_values(maps[f"{side}_depth"], low, high) for side in SIDES]
        strips["depth"] = _join(image, pictures, maps["valid"])
    if "true_normal" in maps:
        pictures = [colour_normal(unit_normals(maps[f"{side}_normal"])) for side in SIDES]
        strips["normal"] = _join(image, pictures, maps["normal_valid"])
    return strips


def _depth_limits(
    depth: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> tuple[float, float]:
    """The range of true depth without outliers."""
    if not valid.any():
        return 0.0, 1.0
    low, high = np.percentile(depth[valid], (1, 99))
    return float(low), float(high)


def _join(image: RGB, pictures: list[RGB], valid: Bool[np.ndarray, "H W"]) -> Strip:
    coarse, refined, true = pictures
    true = np.where(valid[..., None], true, GREY)
    return np.concatenate([image, coarse, refined, true], axis=1)


def summary_writer() -> type:
    """The class that writes event files; fails if its package is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "train.tensorboard needs a package: pip install tensorboardX, or drop "
            "--train.tensorboard"
        ) from error
    return SummaryWriter
